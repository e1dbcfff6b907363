"""Line searches: the conditions that they promise, on functions that are hard for them."""

from __future__ import annotations

import numpy as np
import pytest

from fastmlp.line_search import Trial, _between, backtrack, strong_wolfe

C1, C2 = 1e-4, 0.1

#: φ and φ', with φ'(0) < 0. The second and third are functions 1 and 2 (here less flat at 0)
#: of Moré, Thuente, Line search algorithms with guaranteed sufficient decrease, 1994.
FUNCTIONS = {
    "parabola": (lambda a: (a - 3) ** 2, lambda a: 2 * (a - 3)),
    "rational": (lambda a: -a / (a**2 + 2), lambda a: (a**2 - 2) / (a**2 + 2) ** 2),
    "power": (
        lambda a: (a + 0.05) ** 5 - 2 * (a + 0.05) ** 4,
        lambda a: 5 * (a + 0.05) ** 4 - 8 * (a + 0.05) ** 3,
    ),
    "waves": (
        lambda a: -a + 1e-3 * np.sin(50 * a) + 0.1 * a**2,
        lambda a: -1 + 0.05 * np.cos(50 * a) + 0.2 * a,
    ),
    "ripples": (
        lambda a: 0.02 * a**2 - a - 0.6 * np.sin(5 * a),
        lambda a: 0.04 * a - 1 - 3 * np.cos(5 * a),
    ),
    "overflow": (lambda a: np.exp(40 * a) - 80 * a, lambda a: 40 * np.exp(40 * a) - 80),
}

STEPS = [1e-3, 0.1, 1.0, 10.0, 1e3]


@pytest.fixture(params=FUNCTIONS)
def function(request):
    value, slope = FUNCTIONS[request.param]

    def trial_at(step):
        with np.errstate(over="ignore"):
            return Trial(step, float(value(np.float64(step))), float(slope(np.float64(step))))

    return trial_at


@pytest.mark.parametrize("first", STEPS)
def test_strong_wolfe_conditions_hold(function, first):
    start, tried = function(0.0), []

    def trial_at(step):
        tried.append(function(step))
        return tried[-1]

    found = strong_wolfe(trial_at, start, first)
    assert found == function(found.step)
    assert found.value <= start.value + C1 * found.step * start.slope
    assert abs(found.slope) <= C2 * abs(start.slope)
    assert tried[0].step == first
    enough = [t for t in tried if t.value <= start.value + C1 * t.step * start.slope]
    assert found.value == min(trial.value for trial in enough)
    assert len(tried) <= 30


@pytest.mark.parametrize("first", STEPS)
def test_backtracking_takes_the_first_half_that_decreases_enough(function, first):
    start = function(0.0)
    found = backtrack(lambda step: function(step).value, start, first)
    step = first
    while not function(step).value <= start.value + C1 * step * start.slope:
        step /= 2
    assert found == step


def test_interpolation_finds_the_minimum_of_a_cubic():
    def cubic(a):
        return Trial(a, (a - 2) ** 2 * (a + 7), (a - 2) * (3 * a + 12))

    for low, high in ((1.0, 4.0), (4.0, 1.0), (-1.0, 4.0)):
        assert _between(cubic(low), cubic(high)) == pytest.approx(2, rel=1e-12)
    # The minimum is too near an end, or there is none: the middle.
    assert _between(cubic(1.99), cubic(4.0)) == pytest.approx((1.99 + 4) / 2)
    assert _between(Trial(0, 1, -1), Trial(1, np.inf, np.inf)) == 0.5
    assert _between(Trial(0, 1, -1), Trial(1, np.nan, np.nan)) == 0.5
    assert _between(Trial(0, 0, -1), Trial(1, -1, -1)) == 0.5


@pytest.mark.parametrize("value", [np.nan, np.inf, 1.0, 2.0])
def test_what_never_falls_has_no_step(value):
    start = Trial(0.0, 1.0, -1.0)
    assert backtrack(lambda step: value, start, 1.0) is None
    assert strong_wolfe(lambda step: Trial(step, value, 1.0), start, 1.0) is None


def test_what_falls_forever_gets_a_long_step():
    start = Trial(0.0, 0.0, -1.0)
    assert strong_wolfe(lambda step: Trial(step, -step, -1.0), start, 1.0).step > 1e10


def test_a_kink_gets_a_step_that_decreases():
    start = Trial(0.0, 1.0, -1.0)
    found = strong_wolfe(lambda a: Trial(a, abs(a - 1), np.sign(a - 1) or 1.0), start, 1.7)
    assert 0 < found.step < 2
    assert found.value < 1 - C1 * found.step

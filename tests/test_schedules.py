"""Schedules: the same values as PyTorch's, or as the recurrence that defines them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from fastmlp import schedules
from fastmlp.schedules import (
    Chain,
    Constant,
    Cosine,
    CosineRestarts,
    Exponential,
    InverseTime,
    MultiStep,
    OneCycle,
    Polynomial,
    Schedule,
    StepDecay,
    Warmup,
    evaluate,
)

N_STEPS = 60


def halve_every_seventh(step):
    """Return a value for one integer; arrays and NumPy's integers are refused."""
    assert type(step) is int
    return 0.3 * 0.5 ** (step // 7)


#: Each schedule with every argument at a value of its own, and PyTorch's of the same name.
CASES = {
    "constant": (Constant(0.3), lambda o, s: s.LambdaLR(o, lambda k: 1.0)),
    "inverse_time": (
        InverseTime(0.3, decay_steps=2.5),
        lambda o, s: s.LambdaLR(o, lambda k: 1 / (1 + k / 2.5)),
    ),
    "step_decay": (StepDecay(0.3, 7, factor=0.6), lambda o, s: s.StepLR(o, 7, gamma=0.6)),
    "multi_step": (
        MultiStep(0.3, [1, 5, 30], factor=0.2),
        lambda o, s: s.MultiStepLR(o, [1, 5, 30], gamma=0.2),
    ),
    "exponential": (Exponential(0.3, 0.9), lambda o, s: s.ExponentialLR(o, 0.9)),
    "polynomial": (
        Polynomial(0.3, 40, power=1.7),
        lambda o, s: s.PolynomialLR(o, total_iters=40, power=1.7),
    ),
    "cosine": (
        Cosine(0.3, N_STEPS, final=0.02),
        lambda o, s: s.CosineAnnealingLR(o, N_STEPS, eta_min=0.02),
    ),
    "cosine_restarts": (
        CosineRestarts(0.3, 13, final=0.02),
        lambda o, s: s.CosineAnnealingWarmRestarts(o, 13, eta_min=0.02),
    ),
    "cosine_restarts_that_grow": (
        CosineRestarts(0.3, 4, growth=2, final=0.02),
        lambda o, s: s.CosineAnnealingWarmRestarts(o, 4, T_mult=2, eta_min=0.02),
    ),
    "one_cycle": (OneCycle(0.3, N_STEPS), lambda o, s: s.OneCycleLR(o, 0.3, N_STEPS)),
    "one_cycle_of_lines": (
        OneCycle(0.3, N_STEPS, rising=0.21, start_divisor=7, final_divisor=50, shape="linear"),
        lambda o, s: s.OneCycleLR(
            o,
            0.3,
            N_STEPS,
            pct_start=0.21,
            div_factor=7,
            final_div_factor=50,
            anneal_strategy="linear",
        ),
    ),
    "warmup": (
        Warmup(0.3, 9, initial=0.06),
        lambda o, s: s.LinearLR(o, start_factor=0.2, total_iters=9),
    ),
    "warmup_of_a_schedule": (
        Warmup(Exponential(0.3, 0.8), 9, initial=0.06),
        lambda o, s: s.SequentialLR(
            o,
            [s.LinearLR(o, start_factor=0.2, total_iters=9), s.ExponentialLR(o, 0.8)],
            milestones=[9],
        ),
    ),
    "chain": (
        Chain([0.03, Exponential(0.3, 0.9), Cosine(0.3, 30)], [5, 30]),
        lambda o, s: s.SequentialLR(
            o,
            [
                s.ConstantLR(o, factor=0.1, total_iters=100),
                s.ExponentialLR(o, 0.9),
                s.CosineAnnealingLR(o, 30),
            ],
            milestones=[5, 30],
        ),
    ),
    "function": (Chain([halve_every_seventh], []), lambda o, s: s.StepLR(o, 7, gamma=0.5)),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def test_pytorch_has_the_same_values(case):
    torch = pytest.importorskip("torch", reason="PyTorch's schedules are compared where it is")
    schedule, make = case
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=0.3)
    scheduler = make(optimizer, torch.optim.lr_scheduler)
    expected = []
    for _ in range(N_STEPS):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(schedule(np.arange(N_STEPS)), expected, rtol=1e-12)


def test_every_schedule_is_among_the_cases():
    defined = {
        value
        for value in vars(schedules).values()
        if isinstance(value, type) and issubclass(value, Schedule) and value is not Schedule
    }
    assert {type(schedule) for schedule, _ in CASES.values()} == defined
    assert {cls.__name__ for cls in defined} <= set(schedules.__all__)


def test_an_array_of_steps_gives_what_single_steps_give(case):
    schedule, _ = case
    steps = np.arange(2 * N_STEPS).reshape(8, 15)[::-1, ::2]
    values = schedule(steps)
    assert values.dtype == np.float64
    assert values.shape == steps.shape
    singles = [[schedule(int(step)) for step in row] for row in steps]
    np.testing.assert_array_equal(values, singles)
    assert type(schedule(3)) is float
    assert type(schedule(np.int32(3))) is float
    np.testing.assert_array_equal(schedule(np.arange(9, dtype=np.uint8)), schedule(np.arange(9)))
    assert schedule(np.empty((0, 2), int)).shape == (0, 2)


def test_schedules_are_values(case):
    schedule, _ = case
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert hash(pickle.loads(pickle.dumps(schedule))) == hash(schedule)
    if "function" not in repr(schedule):
        assert eval(repr(schedule), vars(schedules)) == schedule
    assert schedule != Constant(0.31)
    with pytest.raises(AttributeError, match="cannot assign"):
        schedule.initial = 1.0


def test_reprs_say_what_matters():
    assert repr(Cosine(1, 100)) == "Cosine(initial=1.0, n_steps=100, final=0.0)"
    assert repr(Warmup(1, 5)) == "Warmup(then=1.0, n_steps=5, initial=None)"
    assert repr(Chain([1, Constant(2)], [9])) == (
        "Chain(schedules=(1.0, Constant(value=2.0)), milestones=(9,))"
    )


def test_inverse_time_is_a_harmonic_recurrence():
    rate, found = 0.3, InverseTime(0.3, decay_steps=20)(np.arange(50))
    for value in found:
        assert value == pytest.approx(rate, rel=1e-12)
        rate = 1 / (1 / rate + 1 / (0.3 * 20))


def test_exponential_reaches_the_factor_after_its_steps():
    found = Exponential(0.3, 0.01, decay_steps=25)(np.arange(51))
    rate = 0.3
    for value in found:
        assert value == pytest.approx(rate, rel=1e-12)
        rate *= 0.01 ** (1 / 25)
    assert found[25] == pytest.approx(0.003, rel=1e-12)


def test_a_warmup_rises_by_equal_parts_from_0():
    found = Warmup(0.3, 5)(np.arange(7))
    np.testing.assert_allclose(found, [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.3], rtol=1e-12)


@pytest.mark.parametrize(
    ("schedule", "end", "value"),
    [
        (Polynomial(0.3, 40, power=2, final=0.1), 40, 0.1),
        (Polynomial(0.1, 40, final=0.3), 40, 0.3),
        (Cosine(0.3, 40, final=0.1), 40, 0.1),
        (OneCycle(0.3, 40, start_divisor=3, final_divisor=10), 39, 0.01),
        (OneCycle(0.3, 40, rising=0, shape="linear"), 39, 1.2e-6),
        (OneCycle(0.3, 2), 1, 1.2e-6),
    ],
)
def test_what_has_an_end_stays_there(schedule, end, value):
    found = schedule(np.arange(end + 50))
    np.testing.assert_allclose(found[end:], value, rtol=1e-12)
    assert found[end - 1] != found[end]


@pytest.mark.parametrize("shape", ["cosine", "linear"])
@pytest.mark.parametrize(("rising", "top"), [(0, 0), (0.02, 0), (0.3, 11), (0.9, 35)])
def test_one_cycle_is_highest_at_its_peak(rising, top, shape):
    found = OneCycle(0.3, 40, rising=rising, shape=shape)(np.arange(40))
    assert found.argmax() == top
    assert found[top] == pytest.approx(0.3, rel=1e-12)
    assert (np.diff(found[: top + 1]) > 0).all()
    assert (np.diff(found[top:]) < 0).all()


def test_restarts_begin_where_a_cycle_ends():
    found = CosineRestarts(0.3, 5, growth=3)(np.arange(5 + 15 + 45 + 1))
    assert np.flatnonzero(found == 0.3).tolist() == [0, 5, 20, 65]
    far = CosineRestarts(0.3, 1, growth=2)(np.array([2**40 - 2, 2**40 - 1]))
    assert far[0] < 1e-20 < far[1] == 0.3


def test_evaluate_takes_numbers_schedules_and_functions():
    steps = np.arange(12).reshape(3, 4)
    np.testing.assert_array_equal(evaluate(0.3, steps), np.full((3, 4), 0.3))
    np.testing.assert_array_equal(evaluate(Cosine(0.3, 9), steps), Cosine(0.3, 9)(steps))
    expected = [[halve_every_seventh(int(step)) for step in row] for row in steps]
    np.testing.assert_array_equal(evaluate(halve_every_seventh, steps), expected)


@pytest.mark.parametrize("returned", ["0.1", None, [0.1], True, 1j])
def test_a_function_that_returns_no_number_is_refused(returned):
    with pytest.raises(TypeError, match=r"return a number for each step, but .* for step 2"):
        evaluate(lambda step: returned, np.array([2]))


@pytest.mark.parametrize(
    ("step", "error", "message"),
    [
        (-1, ValueError, "step must be at least 0, got -1"),
        (np.array([3, -2]), ValueError, "step must be at least 0, got -2"),
        (1.0, TypeError, "step must be an integer or an array of them, got 1.0"),
        (True, TypeError, "step must be an integer"),
        ("1", TypeError, "step must be an integer"),
    ],
)
def test_steps_are_checked(step, error, message):
    with pytest.raises(error, match=message):
        Constant(0.1)(step)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Constant(-1), ValueError, r"value must be a number in \[0, inf\), got -1"),
        (lambda: Constant("1"), TypeError, "value must be a number"),
        (lambda: Constant(np.nan), ValueError, "value must be a number"),
        (lambda: InverseTime(0.1, 0), ValueError, "decay_steps must be a number in .0, inf"),
        (lambda: StepDecay(0.1, 2.5), TypeError, "decay_steps must be an integer of at least 1"),
        (lambda: StepDecay(0.1, 2, 0), ValueError, "factor must be a number in"),
        (lambda: MultiStep(0.1, 3), TypeError, "milestones must be a list of integers, got 3"),
        (lambda: MultiStep(0.1, [3, 3]), ValueError, r"milestones must increase, got \[3, 3\]"),
        (lambda: MultiStep(0.1, [0, 3]), ValueError, r"milestones\[0\] must be an integer of at"),
        (lambda: Exponential(0.1, -0.5), ValueError, "factor must be a number in"),
        (lambda: Polynomial(0.1, 0), ValueError, "n_steps must be an integer of at least 1"),
        (lambda: Polynomial(0.1, 9, power=0), ValueError, "power must be a number in"),
        (lambda: Cosine(0.1, 9, final=-1), ValueError, "final must be a number in"),
        (lambda: CosineRestarts(0.1, 9, growth=0), ValueError, "growth must be an integer of at"),
        (lambda: OneCycle(0.1, 1), ValueError, "n_steps must be an integer of at least 2"),
        (lambda: OneCycle(0.1, 9, rising=1), ValueError, r"rising must be a number in \[0, 1\)"),
        (lambda: OneCycle(0.1, 9, start_divisor=0), ValueError, "start_divisor must be a number"),
        (lambda: OneCycle(0.1, 9, shape="cos"), ValueError, "shape must be one of 'cosine', 'lin"),
        (lambda: Warmup("cosine", 9), TypeError, "then must be a number"),
        (lambda: Warmup(Cosine, 9), TypeError, "then must be a number"),
        (lambda: Warmup(0.1, 9, initial=-1), ValueError, "initial must be a number"),
        (lambda: Chain(Constant(1), []), TypeError, "schedules must be a list of schedules"),
        (lambda: Chain([], []), ValueError, "one more than milestones, got 0 and 0"),
        (lambda: Chain([1, 2], []), ValueError, "one more than milestones, got 2 and 0"),
        (lambda: Chain([1, None], [3]), TypeError, r"schedules\[1\] must be a number"),
    ],
)
def test_arguments_are_checked(make, error, message):
    with pytest.raises(error, match=message):
        make()

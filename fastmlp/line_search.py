"""Line searches: how far to go along a direction in which a function falls.

The function is seen along the direction only: φ(α) = f(θ + αp), with φ'(0) < 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Trial", "backtrack", "strong_wolfe"]

#: c₁: share of the decrease which the slope at 0 promises that a step must reach.
SUFFICIENT_DECREASE = 1e-4

#: c₂: share of the slope at 0 that may remain under the strong Wolfe conditions; Nocedal and
#: Wright recommend 0.1 where directions are as poor as those of gradient descent.
REMAINING_SLOPE = 0.1

#: Halvings that take any step below the rounding of float64, and what bracketing may take.
LARGEST_N_TRIALS = 60

#: Share of the bracket at either end where an interpolated step would hardly shrink it.
MARGIN = 0.1


class Trial(NamedTuple):
    """A step that was tried.

    Parameters
    ----------
    step : float
        The α.
    value : float
        φ(α).
    slope : float
        φ'(α).
    """

    step: float
    value: float
    slope: float


def _decreases(start: Trial, step: float, value: float) -> bool:
    """Return whether φ(α) ≤ φ(0) + c₁αφ'(0) (Armijo) and φ(α) < φ(0); NaN does not."""
    bound = start.value + SUFFICIENT_DECREASE * step * start.slope
    return value <= bound and value < start.value


def backtrack(value_at: Callable[[float], float], start: Trial, step: float) -> float | None:
    """Halve a step until the function decreases enough: Armijo's condition.

    φ(α) ≤ φ(0) + c₁αφ'(0) with c₁ = 1e-4. Armijo, Minimization of functions having
    Lipschitz continuous first partial derivatives, Pacific Journal of Mathematics 16,
    1966; Nocedal, Wright, Numerical Optimization, 2006, algorithm 3.1.

    Parameters
    ----------
    value_at : callable
        φ; NaN and inf count as no decrease.
    start : Trial
        φ and φ' at 0.
    step : float
        The first α to try.

    Returns
    -------
    float or None
        The first α that will do; None if none does before α is lost in rounding.
    """
    for _ in range(LARGEST_N_TRIALS):
        if _decreases(start, step, value_at(step)):
            return step
        step /= 2
    return None


def strong_wolfe(trial_at: Callable[[float], Trial], start: Trial, step: float) -> Trial | None:
    """Find a step with enough decrease after which hardly any slope remains.

    φ(α) ≤ φ(0) + c₁αφ'(0) and |φ'(α)| ≤ c₂|φ'(0)| with c₁ = 1e-4 and c₂ = 0.1.
    Nocedal, Wright, Numerical Optimization, 2006, algorithm 3.5.

    Parameters
    ----------
    trial_at : callable
        Returns the trial of an α; a value that is NaN or inf counts as no decrease.
    start : Trial
        The trial at 0.
    step : float
        The first α to try.

    Returns
    -------
    Trial or None
        What satisfies both conditions, or, where rounding hides that, at least the first;
        None if nothing does.
    """
    previous = start
    for _ in range(LARGEST_N_TRIALS):
        trial = trial_at(step)
        if not _decreases(start, step, trial.value) or trial.value >= previous.value:
            return _zoom(trial_at, start, previous, trial)
        if abs(trial.slope) <= -REMAINING_SLOPE * start.slope:
            return trial
        if trial.slope >= 0:
            return _zoom(trial_at, start, trial, previous)
        previous, step = trial, 2 * step
    return previous


def _zoom(
    trial_at: Callable[[float], Trial], start: Trial, low: Trial, high: Trial
) -> Trial | None:
    """Shrink a bracket until the conditions hold (algorithm 3.6).

    Of the steps that decrease enough `low` has the lowest value so far, and its slope
    points to `high`.
    """
    for _ in range(LARGEST_N_TRIALS):
        step = _between(low, high)
        if step in (low.step, high.step):
            break
        trial = trial_at(step)
        if not _decreases(start, step, trial.value) or trial.value >= low.value:
            high = trial
            continue
        if abs(trial.slope) <= -REMAINING_SLOPE * start.slope:
            return trial
        if trial.slope * (high.step - low.step) >= 0:
            high = low
        low = trial
    return low if low.step else None


def _between(low: Trial, high: Trial) -> float:
    """Return the minimum of the cubic through two trials, or the middle if it is no use.

    Nocedal, Wright, equation 3.59.
    """
    width = high.step - low.step
    a = low.slope + high.slope - 3 * (high.value - low.value) / width
    radicand = a * a - low.slope * high.slope
    if radicand >= 0:  # neither NaN nor without a minimum
        root = radicand**0.5 if width > 0 else -(radicand**0.5)
        denominator = high.slope - low.slope + 2 * root
        share = 1 - (high.slope + root - a) / denominator if denominator else 0.5
        if MARGIN <= share <= 1 - MARGIN:
            return low.step + share * width
    return low.step + width / 2

"""Schedules: how a learning rate, or another hyperparameter, changes from step to step.

A schedule is a function of the step k = 0, 1, 2 …, counted in updates, not in epochs.
Called with an integer it returns a number, called with an array of integers an array of
float64: ``Cosine(0.1, n_steps=1000)(np.arange(1000))`` is what to plot. Where a schedule
is taken, so is a number, which stays, and any function of an integer.

Objects are values: equal if their arguments are, hashable, and they pickle.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal, overload

import numpy as np
from numpy.typing import NDArray

from ._validation import as_list, check_integer, check_real, look_up

__all__ = [
    "Chain",
    "Constant",
    "Cosine",
    "CosineRestarts",
    "Exponential",
    "InverseTime",
    "MultiStep",
    "OneCycle",
    "Polynomial",
    "Schedule",
    "ScheduleFunction",
    "StepDecay",
    "Warmup",
    "evaluate",
]

#: A function of the step k = 0, 1, 2 …; a :class:`Schedule` also takes arrays.
ScheduleFunction = Callable[[int], float]

Steps = NDArray[np.int64]
Values = NDArray[np.float64]

#: Any value that a hyperparameter can have; none of them is negative.
VALUE = "[0, inf)"


class Schedule(ABC):
    """What schedules share: checked arguments, and calls with one step or with many."""

    #: Valid interval of each argument that is a real number.
    intervals: ClassVar[dict[str, str]] = {}
    #: Arguments that are numbers of steps, at least 1.
    lengths: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for name, interval in self.intervals.items():
            self._set(name, check_real(name, getattr(self, name), interval))
        for name in self.lengths:
            self._set(name, check_integer(name, getattr(self, name), minimum=1))

    def _set(self, name: str, value: Any) -> None:
        """Set a field of a frozen dataclass while it is being made."""
        object.__setattr__(self, name, value)

    @overload
    def __call__(self, step: int) -> float: ...

    @overload
    def __call__(self, step: NDArray[np.integer]) -> Values: ...

    def __call__(self, step: int | NDArray[np.integer]) -> float | Values:
        """Return the value at a step, or at each of many.

        Parameters
        ----------
        step : int or numpy.ndarray of int
            Steps from 0, in any order.

        Returns
        -------
        float or numpy.ndarray of float64
            One value, or as many as there are steps, in their shape.

        Raises
        ------
        TypeError, ValueError
            If a step is no integer, or negative.
        """
        steps = np.asarray(step)
        if steps.dtype.kind not in "iu":
            raise TypeError(f"step must be an integer or an array of them, got {step!r}")
        if steps.size and steps.min() < 0:
            raise ValueError(f"step must be at least 0, got {steps.min()}")
        # Always a vector: NumPy's powers of scalars differ from those of vectors by an ulp.
        values = self._values(steps.ravel().astype(np.int64))
        return values.reshape(steps.shape) if steps.ndim else float(values[0])

    @abstractmethod
    def _values(self, steps: Steps) -> Values:
        """Return the value at each step of a vector."""


@dataclass(frozen=True)
class Constant(Schedule):
    """The same value at every step.

    Parameters
    ----------
    value : float
        The value, at least 0.

    Raises
    ------
    TypeError, ValueError
        If it is not valid.
    """

    value: float

    intervals: ClassVar[dict[str, str]] = {"value": VALUE}

    def _values(self, steps: Steps) -> Values:
        return np.full(steps.shape, self.value)


@dataclass(frozen=True)
class InverseTime(Schedule):
    """Decay with the inverse of time: α₀ / (1 + k/k₀).

    Such rates satisfy Σα = ∞ and Σα² < ∞, so that stochastic gradient descent converges:
    Robbins, Monro, A stochastic approximation method, Annals of Mathematical Statistics
    22, 1951. For a loss that curves by μ or more, the error falls as 1/k if α₀ k₀ > 1/(2μ).

    Parameters
    ----------
    initial : float
        The α₀ of step 0, at least 0.
    decay_steps : float
        The k₀ > 0, after which the value has halved.

    Raises
    ------
    TypeError, ValueError
        If an argument is not valid.
    """

    initial: float
    decay_steps: float

    intervals: ClassVar[dict[str, str]] = {"initial": VALUE, "decay_steps": "(0, inf)"}

    def _values(self, steps: Steps) -> Values:
        return self.initial / (1 + steps / self.decay_steps)


@dataclass(frozen=True)
class StepDecay(Schedule):
    """Multiply the value at equal distances: α₀ γ^⌊k/K⌋.

    Parameters
    ----------
    initial : float
        The α₀ of the first steps, at least 0.
    decay_steps : int
        The K of steps between two changes.
    factor : float, default=0.1
        The γ > 0 of each change.

    Raises
    ------
    TypeError, ValueError
        If an argument is not valid.
    """

    initial: float
    decay_steps: int
    factor: float = 0.1

    intervals: ClassVar[dict[str, str]] = {"initial": VALUE, "factor": "(0, inf)"}
    lengths: ClassVar[tuple[str, ...]] = ("decay_steps",)

    def _values(self, steps: Steps) -> Values:
        return self.initial * np.power(self.factor, steps // self.decay_steps)


@dataclass(frozen=True)
class MultiStep(Schedule):
    """Multiply the value at given steps: α₀ γ^(number of milestones ≤ k).

    Parameters
    ----------
    initial : float
        The α₀ before the first milestone, at least 0.
    milestones : sequence of int
        Steps of the changes, increasing, from 1.
    factor : float, default=0.1
        The γ > 0 of each change.

    Raises
    ------
    TypeError, ValueError
        If an argument is not valid.
    """

    initial: float
    milestones: Sequence[int]
    factor: float = 0.1

    intervals: ClassVar[dict[str, str]] = {"initial": VALUE, "factor": "(0, inf)"}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("milestones", _check_milestones(self.milestones))

    def _values(self, steps: Steps) -> Values:
        passed = np.searchsorted(self.milestones, steps, "right")
        return self.initial * np.power(self.factor, passed)


@dataclass(frozen=True)
class Exponential(Schedule):
    """Decay, or growth, by a constant factor: α₀ γ^(k/K).

    Parameters
    ----------
    initial : float
        The α₀ of step 0, at least 0.
    factor : float
        The γ > 0, by which K steps change the value.
    decay_steps : int, default=1
        The K.

    Raises
    ------
    TypeError, ValueError
        If an argument is not valid.
    """

    initial: float
    factor: float
    decay_steps: int = 1

    intervals: ClassVar[dict[str, str]] = {"initial": VALUE, "factor": "(0, inf)"}
    lengths: ClassVar[tuple[str, ...]] = ("decay_steps",)

    def _values(self, steps: Steps) -> Values:
        return self.initial * self.factor ** (steps / self.decay_steps)


@dataclass(frozen=True)
class Polynomial(Schedule):
    """Change along a power, then stay: α₁ + (α₀ − α₁)(1 − k/K)^p, and α₁ from step K on.

    Parameters
    ----------
    initial : float
        The α₀ of step 0, at least 0.
    n_steps : int
        The K.
    power : float, default=1.0
        The p > 0; the default is a straight line.
    final : float, default=0.0
        The α₁, at least 0; it may lie above α₀.

    Raises
    ------
    TypeError, ValueError
        If an argument is not valid.
    """

    initial: float
    n_steps: int
    power: float = 1.0
    final: float = 0.0

    intervals: ClassVar[dict[str, str]] = {"initial": VALUE, "power": "(0, inf)", "final": VALUE}
    lengths: ClassVar[tuple[str, ...]] = ("n_steps",)

    def _values(self, steps: Steps) -> Values:
        remaining = 1 - np.minimum(steps, self.n_steps) / self.n_steps
        return self.final + (self.initial - self.final) * remaining**self.power


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a wave of the cosine, then stay: α₁ + (α₀ − α₁)(1 + cos(πk/K))/2 up to step K.

    Loshchilov, Hutter: SGDR, ICLR 2017, equation 5. PyTorch's ``CosineAnnealingLR`` is the
    same up to step K, where it begins to rise again; this stays at α₁.

    Parameters
    ----------
    initial : float
        The α₀ of step 0, at least 0.
    n_steps : int
        The K.
    final : float, default=0.0
        The α₁ of step K and those after it, at least 0.

    Raises
    ------
    TypeError, ValueError
        If an argument is not valid.
    """

    initial: float
    n_steps: int
    final: float = 0.0

    intervals: ClassVar[dict[str, str]] = {"initial": VALUE, "final": VALUE}
    lengths: ClassVar[tuple[str, ...]] = ("n_steps",)

    def _values(self, steps: Steps) -> Values:
        return _half_wave(self.initial, self.final, np.minimum(steps, self.n_steps) / self.n_steps)


@dataclass(frozen=True)
class CosineRestarts(Schedule):
    """Cosine decay that starts again and again, each time as long or longer (SGDR).

    In cycle i = 0, 1 … of K·mⁱ steps the value is that of :class:`Cosine`. Loshchilov,
    Hutter: SGDR, stochastic gradient descent with warm restarts, ICLR 2017, section 3.

    Parameters
    ----------
    initial : float
        The α₀ that each cycle starts with, at least 0.
    n_steps : int
        The K of steps of the first cycle.
    growth : int, default=1
        The m, at least 1, of cycles' lengths.
    final : float, default=0.0
        The α₁ that each cycle falls towards, at least 0.

    Raises
    ------
    TypeError, ValueError
        If an argument is not valid.
    """

    initial: float
    n_steps: int
    growth: int = 1
    final: float = 0.0

    intervals: ClassVar[dict[str, str]] = {"initial": VALUE, "final": VALUE}
    lengths: ClassVar[tuple[str, ...]] = ("n_steps", "growth")

    def _values(self, steps: Steps) -> Values:
        if self.growth == 1:
            return _half_wave(self.initial, self.final, steps % self.n_steps / self.n_steps)
        starts = [0]
        while starts[-1] <= steps.max(initial=0):
            starts.append(starts[-1] + self.n_steps * self.growth ** (len(starts) - 1))
        bounds = np.array(starts, np.float64)
        cycle = np.searchsorted(bounds, steps, "right") - 1
        return _half_wave(
            self.initial, self.final, (steps - bounds[cycle]) / np.diff(bounds)[cycle]
        )


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Rise to a peak, then fall far below the start: one cycle for the whole training.

    The value goes from α* / d to the peak α* at step K·r − 1, and from there to
    α* / (d·e) at step K − 1, where it stays. Smith, Topin: Super-convergence, 2018,
    arXiv:1708.07120, in the form and with the defaults of PyTorch's ``OneCycleLR``
    (which refuses steps from K on).

    Parameters
    ----------
    peak : float
        The α*, at least 0; :func:`fastmlp.find_learning_rate` helps to find it.
    n_steps : int
        The K of steps of the whole training, at least 2.
    rising : float, default=0.3
        The share r in [0, 1) of steps that rise.
    start_divisor : float, default=25
        The d > 0.
    final_divisor : float, default=10000
        The e > 0.
    shape : {"cosine", "linear"}, default="cosine"
        Half waves of the cosine, or straight lines.

    Raises
    ------
    TypeError, ValueError
        If an argument is not valid.
    """

    peak: float
    n_steps: int
    rising: float = 0.3
    start_divisor: float = 25.0
    final_divisor: float = 1e4
    shape: Literal["cosine", "linear"] = "cosine"

    intervals: ClassVar[dict[str, str]] = {
        "peak": VALUE,
        "rising": "[0, 1)",
        "start_divisor": "(0, inf)",
        "final_divisor": "(0, inf)",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("n_steps", check_integer("n_steps", self.n_steps, minimum=2))
        look_up("shape", self.shape, SHAPES)

    def _values(self, steps: Steps) -> Values:
        between = SHAPES[self.shape]
        start = self.peak / self.start_divisor
        top, last = max(self.rising * self.n_steps - 1, 0.0), self.n_steps - 1
        up = np.minimum(steps / top, 1) if top else np.ones(steps.shape)
        down = np.clip((steps - top) / (last - top), 0, 1)
        return np.where(
            steps <= top,
            between(start, self.peak, up),
            between(self.peak, start / self.final_divisor, down),
        )


@dataclass(frozen=True)
class Warmup(Schedule):
    """Rise along a line to where another schedule starts, then follow it.

    With T(k) for the other one, the value is α₀ + (T(0) − α₀) k/K before step K, and
    T(k − K) from there on. Goyal et al., Accurate, large minibatch SGD, 2017,
    arXiv:1706.02677, section 2.2.

    Parameters
    ----------
    then : float, Schedule or callable
        The T; its first step is the K-th of all.
    n_steps : int
        The K of steps that rise.
    initial : float, optional
        The α₀ of step 0, at least 0; the default T(0)/(K + 1) makes all rises equal, the
        first one from 0.

    Raises
    ------
    TypeError, ValueError
        If an argument is not valid.
    """

    then: float | ScheduleFunction
    n_steps: int
    initial: float | None = None

    lengths: ClassVar[tuple[str, ...]] = ("n_steps",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("then", _checked("then", self.then))
        if self.initial is not None:
            self._set("initial", check_real("initial", self.initial, VALUE))

    def _values(self, steps: Steps) -> Values:
        target = float(evaluate(self.then, np.zeros((), np.int64)))
        initial = target / (self.n_steps + 1) if self.initial is None else self.initial
        rise = Polynomial(initial, self.n_steps, final=target)
        return Chain([rise, self.then], [self.n_steps])(steps)


@dataclass(frozen=True)
class Chain(Schedule):
    """Follow schedules one after the other, each from its own step 0.

    Parameters
    ----------
    schedules : sequence of float, Schedule or callable
        At least one.
    milestones : sequence of int
        Step at which the next one takes over, increasing, from 1; one fewer than there are
        schedules.

    Raises
    ------
    TypeError, ValueError
        If an argument is not valid.
    """

    schedules: Sequence[float | ScheduleFunction]
    milestones: Sequence[int]

    def __post_init__(self) -> None:
        listed = as_list("schedules", self.schedules, "schedules")
        schedules = tuple(
            _checked(f"schedules[{index}]", schedule) for index, schedule in enumerate(listed)
        )
        milestones = _check_milestones(self.milestones)
        if len(schedules) != len(milestones) + 1:
            raise ValueError(
                f"schedules must be one more than milestones, got {len(schedules)} and "
                f"{len(milestones)}"
            )
        self._set("schedules", schedules)
        self._set("milestones", milestones)

    def _values(self, steps: Steps) -> Values:
        values = np.empty(steps.shape)
        current = np.searchsorted(self.milestones, steps, "right")
        for index, start in enumerate((0, *self.milestones)):
            here = current == index
            values[here] = evaluate(self.schedules[index], steps[here] - start)
        return values


def evaluate(value: float | ScheduleFunction, steps: NDArray[np.integer]) -> Values:
    """Return the values of a hyperparameter at some steps.

    Parameters
    ----------
    value : float, Schedule or callable
        A number, which stays; a schedule, which is called once with all steps; or any
        function, which is called with one integer at a time.
    steps : numpy.ndarray of int
        Steps from 0.

    Returns
    -------
    numpy.ndarray of float64
        A value for each step, in their shape.

    Raises
    ------
    TypeError
        If a function returns something other than a number.
    """
    if isinstance(value, Schedule):
        return np.asarray(value(steps))
    if not callable(value):
        return np.full(steps.shape, float(value))
    values = [_number(value, step) for step in steps.ravel().tolist()]
    return np.array(values, np.float64).reshape(steps.shape)


def _number(function: ScheduleFunction, step: int) -> float:
    """Return what a user's function gives for a step, if it is a number."""
    value = function(step)
    if np.ndim(value) or np.asarray(value).dtype.kind not in "iuf":
        raise TypeError(
            f"a schedule must return a number for each step, but {function!r} returned "
            f"{value!r} for step {step}"
        )
    return float(value)


def _checked(argument: str, value: float | ScheduleFunction) -> float | ScheduleFunction:
    """Return a function of the step, or a number of at least 0."""
    if callable(value) and not isinstance(value, type):
        return value
    return check_real(argument, value, VALUE)


def _check_milestones(milestones: Sequence[int]) -> tuple[int, ...]:
    """Return steps that increase, the first one at least 1."""
    listed = as_list("milestones", milestones, "integers")
    checked = tuple(
        check_integer(f"milestones[{index}]", step, minimum=1) for index, step in enumerate(listed)
    )
    if any(later <= earlier for earlier, later in pairwise(checked)):
        raise ValueError(f"milestones must increase, got {list(checked)}")
    return checked


def _half_wave(first: float, last: float, progress: Values) -> Values:
    """Go from one value to another along half a wave of the cosine."""
    return last + (first - last) * (1 + np.cos(np.pi * progress)) / 2


def _line(first: float, last: float, progress: Values) -> Values:
    """Go from one value to another along a line."""
    return first * (1 - progress) + last * progress


#: How a value goes from a first to a last one while progress goes from 0 to 1.
SHAPES = {"cosine": _half_wave, "linear": _line}

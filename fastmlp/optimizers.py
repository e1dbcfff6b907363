"""Optimizers: hyperparameters, step count and state; the arithmetic is in the kernels."""

# Fields are described by functions, which ruff takes for defaults that are shared:
# ruff: noqa: RUF009

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import operator
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._validation import Array, as_vector, check_integer, check_option, check_real
from .kernels import arena, catalogue
from .parameters import Layout, Parameters
from .schedules import Schedule

if TYPE_CHECKING:
    from .network import MLP

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Hyperparameter",
    "Lion",
    "NAdam",
    "Optimizer",
    "ParameterAverage",
    "RMSprop",
    "Steps",
    "check_optimizer",
]

ROWS = {row.name: row for row in catalogue.OPTIMIZERS}

#: A number, or a schedule: a function of the step, which is 0 at the first one.
Hyperparameter = float | Callable[[int], float]

Columns = dict[str, Any]

#: Name of the state's last row, if parameters are averaged.
AVERAGE = "average"

NO_NUMBERS = np.empty(0)
POSITIVE, NOT_NEGATIVE, BELOW_ONE = "(0, inf)", "[0, inf)", "[0, 1)"


def _number(default: Any, interval: str, scheduled: str | None = None) -> Any:
    """Describe a number in an interval, or a schedule whose values are in `scheduled`."""
    metadata = {"interval": interval, "scheduled": scheduled or interval}
    return dataclasses.field(default=default, metadata=metadata)


def _learning_rate(default: Any = dataclasses.MISSING) -> Any:
    return _number(default, POSITIVE, NOT_NEGATIVE)  # schedules begin or end with 0


def _constant(default: float, interval: str) -> Any:
    """Describe a number in an interval that is no schedule."""
    metadata = {"interval": interval, "scheduled": None}
    return dataclasses.field(default=default, metadata=metadata)


def _choice(*options: Any) -> Any:
    """Describe a hyperparameter that is one of some values, by default the first."""
    return dataclasses.field(default=options[0], metadata={"options": options})


def _limit() -> Any:
    """Describe a positive number that may be left out."""
    return dataclasses.field(default=None, metadata={"limit": POSITIVE})


@dataclass(frozen=True)
class ParameterAverage:
    """How the parameters are averaged over the steps of a training.

    The average θ̄ is updated after each step, in the same sweep over memory. Until `start`
    there is none; then it is the parameters θ of that step, and from then on::

        θ̄ ← θ̄ + (1 − decay)(θ − θ̄)    exponential moving average
        θ̄ ← θ̄ + (θ − θ̄)/n             mean of n iterates, where decay is None

    Polyak, Juditsky, Acceleration of stochastic approximation by averaging, 1992. With the
    same start it is PyTorch's ``AveragedModel``, updated after every step.

    Parameters
    ----------
    decay : float, optional
        The share in [0, 1) of the average that a step keeps: it reaches back about
        1/(1 − decay) steps. None takes the mean of all iterates.
    start : int, default=0
        Step whose result is the first in the average; 0 is the first step.

    Raises
    ------
    TypeError, ValueError
        If a value is not valid.

    See Also
    --------
    Optimizer.averaged : The network with averaged parameters.
    """

    decay: float | None = None
    start: int = 0

    def __post_init__(self) -> None:
        if self.decay is not None:
            object.__setattr__(self, "decay", check_real("decay", self.decay, BELOW_ONE))
        object.__setattr__(self, "start", check_integer("start", self.start, minimum=0))

    def shares(self, first_step: int, n_steps: int) -> NDArray[np.float64]:
        """Return by what share of its distance to the parameters the average moves.

        Parameters
        ----------
        first_step : int
            Number of the first step, from 0.
        n_steps : int
            Number of steps.

        Returns
        -------
        numpy.ndarray of float64, shape (n_steps,)
            0 before the start, 1 there.
        """
        n = np.arange(first_step, first_step + n_steps) - self.start + 1
        count = np.maximum(n, 1)
        shares = 1 / count if self.decay is None else np.where(n == 1, 1.0, 1 - self.decay)
        return np.where(n < 1, 0.0, shares)


class Steps(NamedTuple):
    """What the kernel that trains is told of some steps, consistent in itself.

    Parameters
    ----------
    row : fastmlp.kernels.catalogue.Optimizer
        The update rule.
    state : numpy.ndarray of shape (n_state, n_elements)
        What it remembers; the last row is the average of the parameters if there is one.
    coefficients : numpy.ndarray of float64, shape (n_steps, n_coefficients)
        Scalars of each step.
    averaging : numpy.ndarray of float64, shape (n_steps,) or (0,)
        Share of each step in the average.
    clip_value, clip_norm : float
        Limits of the gradient, or inf.
    """

    row: catalogue.Optimizer
    state: Array
    coefficients: NDArray[np.float64]
    averaging: NDArray[np.float64]
    clip_value: float
    clip_norm: float

    @property
    def clips(self) -> bool:
        """Whether there is a limit."""
        return min(self.clip_value, self.clip_norm) < np.inf


@dataclass(eq=False, repr=False)
class Optimizer(ABC):
    """What optimizers share: an update rule, checked hyperparameters, and a state.

    Hyperparameters may be changed between steps. Those that are numbers may be schedules:
    functions of the number of the step, k = 0, 1, 2 …, and of nothing else, except
    `clip_value`, `clip_norm` and Adagrad's `initial_accumulator_value`. The state
    (velocities, moments) belongs to the first network that is trained; a copy or pickle
    of an optimizer has the hyperparameters only.

    Parameters
    ----------
    decoupled_weight_decay : bool, default=False
        Whether weight decay λ shrinks the parameters themselves, θ ← (1 − αλ)θ, before
        the step with learning rate α, instead of adding λθ to the gradient; without
        momentum, in SGD, the two are the same. Loshchilov, Hutter, Decoupled weight decay
        regularization, ICLR 2019.
    clip_value : float, optional
        Limit of each entry of the gradient, before weight decay; None for no limit.
    clip_norm : float, optional
        Limit of the norm of the whole gradient, before weight decay and after
        `clip_value`; a longer one is scaled to exactly this length (PyTorch divides by
        the norm + 1e-6).
    average : ParameterAverage, optional
        How to average the parameters over the steps; :meth:`averaged` gives the result.
        Given during training, it begins with the parameters of that moment.

    Notes
    -----
    Where gradients stay away, velocities and means fade. What has become smaller than the
    least normal number, 1.2e-38 in float32, counts as 0, and a mean of squares stops at four
    times that: they would stay among the subnormal numbers for ever, and steps would take
    several times as long. Where both gradients and `eps` are below 1e-17, this makes steps
    shorter.
    """

    #: Hyperparameters whose products over all steps the update rule needs.
    factors: ClassVar[tuple[str, ...]] = ()

    #: Grows whenever anything but the count of steps may have changed.
    changes: ClassVar[int] = 0

    _: KW_ONLY
    decoupled_weight_decay: bool = _choice(False, True)
    clip_value: float | None = _limit()
    clip_norm: float | None = _limit()
    average: ParameterAverage | None = None

    def __post_init__(self) -> None:
        self.reset()
        self.row  # noqa: B018  (raises where hyperparameters contradict each other)

    def __setattr__(self, name: str, value: Any) -> None:
        field = self.__dataclass_fields__.get(name)
        if field:
            value = _checked(field, value)
        elif not name.startswith("_") and not hasattr(type(self), name):
            names = ", ".join(field.name for field in dataclasses.fields(self))
            raise AttributeError(
                f"{type(self).__name__} has the hyperparameters {names}, got {name!r}"
            )
        super().__setattr__(name, value)
        vars(self)["changes"] = self.changes + 1

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def __setstate__(self, hyperparameters: dict[str, Any]) -> None:
        type(self).__init__(self, **hyperparameters)

    def __repr__(self) -> str:
        values = {field: getattr(self, field.name) for field in dataclasses.fields(self)}
        numbers = {field: value for field, value in values.items() if "interval" in field.metadata}
        others = {field: value for field, value in values.items() if field not in numbers}
        shown = [f"{field.name}={_written(value)}" for field, value in numbers.items()]
        shown += [f"{f.name}={_written(v)}" for f, v in others.items() if v != f.default]
        return f"{type(self).__name__}({', '.join(shown)})"

    @property
    @abstractmethod
    def row(self) -> catalogue.Optimizer:
        """Row of the update rule in the catalogue."""

    @property
    def step_count(self) -> int:
        """Updates so far."""
        return self._step_count

    @property
    def has_constants(self) -> bool:
        """Whether the steps to come depend on nothing but their number."""
        if self.average or self.clip_value or self.clip_norm:
            return False
        return not any(callable(getattr(self, name)) for name in _numbers(type(self)))

    def reset(self) -> None:
        """Forget the network, its state and the step count."""
        self._step_count = 0
        self._first_step = 0  # of those that were prepared last
        self._products = {name: [1.0] for name in self.factors}  # before each of them, and after
        self._owner: weakref.ref[Parameters] | None = None
        self._layout: Layout | None = None
        self._names: tuple[str, ...] = ()
        self._state: Array = np.empty((0, 0))

    # --- State ----------------------------------------------------------------------------

    def bind(self, parameters: Parameters) -> None:
        """Take a network, for which the state is from now on.

        Parameters
        ----------
        parameters : Parameters
            Of the network to be trained.

        Raises
        ------
        ValueError
            If the state belongs to another network, or hyperparameters contradict each
            other.
        """
        self._bind(parameters, self.row, self.average)

    def check_owner(self, parameters: Parameters) -> None:
        """Refuse a network that the state does not belong to; one without state is free.

        Parameters
        ----------
        parameters : Parameters
            Of the network to be trained.

        Raises
        ------
        ValueError
            If the state belongs to another network.
        """
        if self._owner is not None and self._owner() is not parameters:
            raise ValueError(
                f"optimizer {self!r} has the state of another network: create a new one "
                "for each network, or call its reset()"
            )

    def _bind(
        self, parameters: Parameters, row: catalogue.Optimizer, average: ParameterAverage | None
    ) -> Array:
        """Return the state of an update rule and an average, new as far as they are."""
        self.check_owner(parameters)
        names = row.state if average is None else (*row.state, AVERAGE)
        if names != self._names or not self._state.shape[1]:
            self._state, self._names = self._allocated(parameters, names), names
        if self._owner is None:
            self._owner, self._layout = weakref.ref(parameters), parameters.layout
        return self._state

    def _allocated(self, parameters: Parameters, names: tuple[str, ...]) -> Array:
        """Return a new state, which keeps what has the same name."""
        layout, before = parameters.layout, self.state
        shape = len(names), layout.n_elements
        state = arena.aligned_zeros(shape[0] * shape[1], layout.dtype).reshape(shape)
        for name, elements in zip(names, state, strict=True):
            if name in before:
                elements[...] = before[name].arena
            elif name == AVERAGE and self.step_count:
                elements[...] = parameters.arena
            elif name != AVERAGE:
                Parameters(layout, elements).fill(self._initial(name))
        return state

    def _initial(self, name: str) -> float:
        """Return the value with which an entry of the state begins."""
        return 0.0

    @property
    def state(self) -> dict[str, Parameters]:
        """What is remembered, by name: views with `weights`, `biases` and `to_vector()`.

        The names are those of the update rule's row in the catalogue, and ``"average"``;
        there are none before the first step.
        """
        layout = self._layout
        if layout is None:
            return {}
        rows = zip(self._names, self._state, strict=True)
        return {name: Parameters(layout, elements) for name, elements in rows}

    def state_dict(self) -> dict[str, Any]:
        """Copy what a later training needs to continue as if there had been no pause.

        Returns
        -------
        dict
            Numbers and arrays, which ``numpy.savez(path, **state)`` can write: the step
            count, products of hyperparameters over the steps, and each entry of `state`
            as a vector of shape (n_parameters,). Hyperparameters are not part of it.
        """
        products = {f"product_of_{name}": self._product(name) for name in self.factors}
        arrays = {name: entry.to_vector() for name, entry in self.state.items()}
        return {"step_count": self.step_count} | products | arrays

    def load_state_dict(self, state: Mapping[str, Any], net: MLP) -> None:
        """Continue from what :meth:`state_dict` returned.

        Parameters
        ----------
        state : mapping
            From an optimizer with the same update rule, after its first step.
        net : MLP
            Network to be trained, with the parameters that belong to this state.

        Raises
        ------
        TypeError, ValueError
            If the state is that of another update rule or of a network of another size;
            then nothing has changed.
        """
        other = copy.copy(self)  # with the hyperparameters only
        other.bind(net.parameters)
        expected = other.state_dict()
        if set(state) != set(expected):
            raise ValueError(
                f"state must hold {', '.join(expected)} for {self!r}, got "
                f"{', '.join(map(str, state)) or 'nothing'}: create the optimizer as the one "
                "whose state it is, and save after the first step"
            )
        layout = net.parameters.layout
        for name, entry in other.state.items():
            argument = f"state[{name!r}]"
            entry.set_vector(as_vector(argument, state[name], layout.n_parameters, layout.dtype))
        count = np.asarray(state["step_count"]).item()
        other._step_count = check_integer("state['step_count']", count, minimum=0)
        for name in self.factors:
            key = f"product_of_{name}"
            other._products[name] = [check_real(f"state[{key!r}]", state[key], "[0, 1]")]
        other._first_step = other.step_count
        vars(self).update(vars(other) | {"changes": self.changes + 1})

    def averaged(self, net: MLP) -> MLP:
        """Copy a network with the average of its parameters, to be evaluated or saved.

        Parameters
        ----------
        net : MLP
            Network that was trained with this optimizer.

        Returns
        -------
        MLP
            An independent network.

        Raises
        ------
        ValueError
            If there is no average of this network, or none yet.
        """
        if self.average is None or AVERAGE not in self._names:
            raise ValueError(
                f"optimizer {self!r} has no average: create it with "
                "average=ParameterAverage(...) and train"
            )
        if self._owner is None or self._owner() is not net.parameters:
            raise ValueError(f"optimizer {self!r} has the average of another network")
        if self.step_count <= self.average.start:
            raise ValueError(
                f"the average begins after step {self.average.start}, and there were only "
                f"{self.step_count} steps so far: train longer, or lower its start"
            )
        other = copy.deepcopy(net)
        other.set_parameters(self.state[AVERAGE].to_vector())
        return other

    # --- Steps ----------------------------------------------------------------------------

    def prepare(self, parameters: Parameters, n_steps: int) -> Steps:
        """Return what a kernel needs for the next steps; :meth:`advance` counts them.

        Parameters
        ----------
        parameters : Parameters
            Of the network to be trained, whose the state is from now on.
        n_steps : int
            Number of steps, at least 1.

        Returns
        -------
        Steps
            Update rule, state and scalars.

        Raises
        ------
        TypeError, ValueError
            If the state belongs to another network, hyperparameters contradict each
            other, or a schedule's value is not valid; then the optimizer is as it was.
        """
        row, average = self.row, self.average  # once, as another thread may change them
        self.check_owner(parameters)
        coefficients = self.coefficients(n_steps, row)
        state = self._bind(parameters, row, average)
        averaging = average.shares(self.step_count, n_steps) if average else NO_NUMBERS
        clip_value, clip_norm = self.clip_value or np.inf, self.clip_norm or np.inf
        return Steps(row, state, coefficients, averaging, clip_value, clip_norm)

    def advance(self, n_steps: int) -> None:
        """Count steps that have been done with what was last prepared.

        Parameters
        ----------
        n_steps : int
            Number of steps.
        """
        self.__dict__["_step_count"] += n_steps  # no change of what is to come

    def coefficients(self, n_steps: int, row: catalogue.Optimizer) -> NDArray[np.float64]:
        """Return the scalars of the next steps, in the order that the kernels read them.

        Parameters
        ----------
        n_steps : int
            Number of steps, at least 1.
        row : fastmlp.kernels.catalogue.Optimizer
            The update rule.

        Returns
        -------
        numpy.ndarray of float64, shape (n_steps, n_coefficients)
            One row a step.

        Raises
        ------
        TypeError, ValueError
            If a schedule's value is not valid.
        """
        products = {name: [self._product(name)] for name in self.factors}
        self._first_step, self._products = self.step_count, products  # a change: see `changes`
        columns = self._columns(row, n_steps)
        scalars = [columns[name] for name in row.coefficients]
        if n_steps == 1:
            return np.array([scalars])
        table = np.empty((n_steps, len(scalars)))
        for column, scalar in enumerate(scalars):
            table[:, column] = scalar
        return table

    def _columns(self, row: catalogue.Optimizer, n_steps: int) -> Columns:
        """Return a scalar for all steps, or one for each, by the coefficient's name."""
        columns: Columns = {name: self._values(name, n_steps) for name in _numbers(type(self))}
        columns["shrinkage"] = 0.0
        if self.decoupled_weight_decay and "shrinkage" in row.coefficients:
            columns["shrinkage"] = columns["learning_rate"] * columns["weight_decay"]
            columns["weight_decay"] = 0.0
        return columns

    def _values(self, name: str, n_steps: int, ahead: int = 0) -> Any:
        """Return a hyperparameter: a number, or what its schedule says for each step."""
        value = getattr(self, name)
        if not callable(value):
            return value
        interval = self.__dataclass_fields__[name].metadata["scheduled"]
        first = self.step_count + ahead
        if n_steps == 1 or not isinstance(value, Schedule):
            steps = range(first, first + n_steps)
            return _column([check_real(f"{name} at step {k}", value(k), interval) for k in steps])
        values = value(np.arange(first, first + n_steps))
        for k in (values.argmin(), values.argmax()):  # all lie between, and NaN is either
            check_real(f"{name} at step {first + k}", float(values[k]), interval)
        return values

    def _product(self, name: str) -> float:
        """Return the product of a hyperparameter over all steps so far."""
        known, step = self._products[name], self.step_count - self._first_step
        # Threads that train one network at a time may count a step twice, but must not end here.
        return known[min(max(step, 0), len(known) - 1)]

    def _products_of(self, name: str, factors: Any, n_steps: int) -> Any:
        """Return the product of a factor over all steps, up to each of the next ones."""
        # One after the other: the bits must not depend on how steps are grouped to calls.
        if not isinstance(factors, np.ndarray):
            factors = itertools.repeat(factors, n_steps)
        products = list(itertools.accumulate(factors, operator.mul, initial=self._product(name)))
        self._products[name] = [float(product) for product in products]
        return _column(products[1:])


@functools.cache
def _numbers(optimizer: type[Optimizer]) -> list[str]:
    """Return the names of the hyperparameters that are numbers."""
    return [field.name for field in dataclasses.fields(optimizer) if "interval" in field.metadata]


def _column(values: Sequence[float]) -> Any:
    """Return a scalar for each step; of one step the number, which is much faster."""
    return np.array(values) if len(values) > 1 else values[0]


def _checked(field: dataclasses.Field[Any], value: Any) -> Any:
    """Return the value for a hyperparameter if it is valid."""
    kind, name = field.metadata, field.name
    if "interval" in kind:
        if not callable(value) or not kind["scheduled"]:
            return check_real(name, value, kind["interval"])
        if isinstance(value, type):
            raise TypeError(
                f"{name} must be a number in {kind['interval']} or a function of the step, got "
                f"the class {value.__name__}"
            )
        return value
    if "options" in kind:
        return check_option(name, value, kind["options"])
    if "limit" in kind:
        return None if value is None else check_real(name, value, kind["limit"])
    if not isinstance(value, ParameterAverage | None):
        raise TypeError(f"{name} must be a ParameterAverage or None, got {value!r}")
    return value


def _written(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else repr(value)


@dataclass(eq=False, repr=False)
class SGD(Optimizer):
    """Stochastic gradient descent, with momentum in one of three forms if asked for.

    For each parameter θ at step k, with gradient g, learning rate α and momentum β. Without
    momentum θ ← θ − αg, and no state is stored. ``"heavy_ball"`` (Polyak, Some methods of
    speeding up the convergence of iteration methods, 1964, equation 9) keeps the velocity
    v = θ − θ₋, the last change; with dampening d::

        v ← βv − α(1 − d)g,    θ ← θ + v

    ``"ema"`` keeps an exponential moving average Δ of the gradients::

        Δ ← βΔ + (1 − β)g,    θ ← θ − αΔ

    ``"nesterov"`` takes the gradient at the look-ahead θ̃ (Nesterov, A method of solving a
    convex programming problem with convergence rate O(1/k²), 1983)::

        θ̃ₖ = θₖ + βₖ(θₖ − θₖ₋₁),    θₖ₊₁ = θ̃ₖ − αₖ∇f(θ̃ₖ)

    While it trains, the network's parameters are the look-ahead θ̃ₖ, as the gradient is
    taken there; the iterate θₖ is ``θ̃ₖ − state["lookahead"]``. With
    ``lookahead`` u = θ̃ₖ − θₖ it is u ← βₖ₊₁(u − αₖg), θ̃ ← θ̃ − αₖg + u, so that a
    schedule of β is asked one step ahead.

    PyTorch keeps the learning rate outside of the velocity: v ← βv + (1 − d)g, θ ← θ − αv,
    and does not dampen the first step. While α is constant these are the same iterates, for
    its ``nesterov=True`` too (with d: ``dampening=lambda k: d if k else 0``). Where α has a
    schedule, ``momentum_style="ema"`` with the learning rate α/(1 − β) is what it does.

    Parameters
    ----------
    learning_rate : float or callable
        The α > 0 of a step; there is no default that suits most tasks.
    momentum : float or callable, default=0.0
        The β in [0, 1): the share of the velocity that a step keeps.
    decoupled_weight_decay, clip_value, clip_norm, average : optional
        As in :class:`Optimizer`.
    momentum_style : {"heavy_ball", "ema", "nesterov"}, default="heavy_ball"
        What is done with it.
    dampening : float or callable, default=0.0
        The d in [0, 1), of the heavy ball only.
    weight_decay : float or callable, default=0.0
        The λ ≥ 0, added as the gradient of λ/2 θ², of biases too.

    Raises
    ------
    TypeError, ValueError
        If a value is not valid, or there is dampening where nothing is to be dampened.
    """

    learning_rate: Hyperparameter = _learning_rate()
    momentum: Hyperparameter = _number(0.0, BELOW_ONE)
    _: KW_ONLY
    momentum_style: Literal["heavy_ball", "ema", "nesterov"] = _choice(
        "heavy_ball", "ema", "nesterov"
    )
    dampening: Hyperparameter = _number(0.0, BELOW_ONE)
    weight_decay: Hyperparameter = _number(0.0, NOT_NEGATIVE)

    @property
    def row(self) -> catalogue.Optimizer:
        """Row of the update rule in the catalogue."""
        style = self.momentum_style if self.momentum else "none"
        if self.dampening and style != "heavy_ball":
            raise ValueError(
                "dampening must be 0 unless there is momentum of the style 'heavy_ball', got "
                f"{_written(self.dampening)} with momentum={_written(self.momentum)} and "
                f"momentum_style={self.momentum_style!r}: set dampening=0"
            )
        names = {"none": "sgd", "heavy_ball": "momentum", "ema": "ema_momentum"}
        return ROWS[names.get(style, style)]

    def _columns(self, row: catalogue.Optimizer, n_steps: int) -> Columns:
        columns = super()._columns(row, n_steps)
        columns["rest"] = 1 - columns["momentum"]
        columns["learning_rate"] = columns["learning_rate"] * (1 - columns["dampening"])
        if row is ROWS["nesterov"]:
            columns["next_momentum"] = self._values("momentum", n_steps, ahead=1)
        return columns


@dataclass(eq=False, repr=False)
class Adagrad(Optimizer):
    """Adagrad: each parameter's learning rate falls with the gradients that it has seen.

    For each parameter θ with gradient g and learning rate α::

        s ← s + g²,    θ ← θ − α g / (√s + ε)

    Duchi, Hazan, Singer, Adaptive subgradient methods for online learning and stochastic
    optimization, JMLR 2011, with the defaults of PyTorch. Its ``lr_decay`` is the schedule
    ``lambda k: learning_rate / (1 + k * lr_decay)``.

    Parameters
    ----------
    learning_rate : float or callable, default=1e-2
        The α > 0, the largest change of a parameter in the first step.
    eps : float or callable, default=1e-10
        The ε > 0 that keeps the division finite.
    weight_decay : float or callable, default=0.0
        The λ ≥ 0, added as the gradient of λ/2 θ², of biases too.
    initial_accumulator_value : float, default=0.0
        The s ≥ 0 of the beginning.
    decoupled_weight_decay, clip_value, clip_norm, average : optional
        As in :class:`Optimizer`.

    Raises
    ------
    TypeError, ValueError
        If a value is not valid.
    """

    learning_rate: Hyperparameter = _learning_rate(1e-2)
    eps: Hyperparameter = _number(1e-10, POSITIVE)
    weight_decay: Hyperparameter = _number(0.0, NOT_NEGATIVE)
    initial_accumulator_value: float = _constant(0.0, NOT_NEGATIVE)

    @property
    def row(self) -> catalogue.Optimizer:
        """Row of the update rule in the catalogue."""
        return ROWS["adagrad"]

    def _initial(self, name: str) -> float:
        return self.initial_accumulator_value if name == "square_sum" else 0.0


@dataclass(eq=False, repr=False)
class RMSprop(Optimizer):
    """RMSprop: gradients divided by the root of their recent mean square.

    For each parameter θ with gradient g and learning rate α::

        s ← βs + (1 − β)g²,    v ← μv + g / (√s + ε),    θ ← θ − αv

    Tieleman, Hinton, Neural networks for machine learning, lecture 6.5, 2012. Centered,
    the mean m ← βm + (1 − β)g is subtracted and √max(s − m², 0) divides (Graves, Generating
    sequences with recurrent neural networks, 2013, equations 38 to 41, but for the place of
    ε). The defaults, and the learning rate outside of the velocity v, are PyTorch's.
    Without momentum and centering s is all that is stored.

    Parameters
    ----------
    learning_rate : float or callable, default=1e-2
        The α > 0.
    beta : float or callable, default=0.99
        The β in [0, 1), memory of the mean square; PyTorch's ``alpha``.
    eps : float or callable, default=1e-8
        The ε > 0 that keeps the division finite.
    weight_decay : float or callable, default=0.0
        The λ ≥ 0, added as the gradient of λ/2 θ², of biases too.
    momentum : float or callable, default=0.0
        The μ in [0, 1).
    decoupled_weight_decay, clip_value, clip_norm, average : optional
        As in :class:`Optimizer`.
    centered : bool, default=False
        Whether to divide by the standard deviation.

    Raises
    ------
    TypeError, ValueError
        If a value is not valid.
    """

    learning_rate: Hyperparameter = _learning_rate(1e-2)
    beta: Hyperparameter = _number(0.99, BELOW_ONE)
    eps: Hyperparameter = _number(1e-8, POSITIVE)
    weight_decay: Hyperparameter = _number(0.0, NOT_NEGATIVE)
    momentum: Hyperparameter = _number(0.0, BELOW_ONE)
    _: KW_ONLY
    centered: bool = _choice(False, True)

    @property
    def row(self) -> catalogue.Optimizer:
        """Row of the update rule in the catalogue."""
        if self.centered:
            return ROWS["centered_rmsprop"]
        return ROWS["rmsprop_momentum" if self.momentum else "rmsprop"]

    def _columns(self, row: catalogue.Optimizer, n_steps: int) -> Columns:
        columns = super()._columns(row, n_steps)
        return columns | {"rest": 1 - columns["beta"]}


@dataclass(eq=False, repr=False)
class Adam(Optimizer):
    """Adam: steps of about the learning rate, whatever the scale of the gradient.

    For each parameter θ with gradient g, at step t = 1, 2 …::

        m ← β₁m + (1 − β₁)g
        v ← β₂v + (1 − β₂)g²
        θ ← θ − α m/(1 − β₁ᵗ) / (√(v/(1 − β₂ᵗ)) + ε)

    Kingma, Ba: Adam, a method for stochastic optimization, ICLR 2015, algorithm 1, whose
    defaults these are. Where β₁ or β₂ change, β₁ᵗ is the product of those of all steps, as
    a sum of gradients has it (PyTorch: the last one to the power t). The weight decay λ is
    not in the paper; it goes through the moments, g ← g + λθ, as in PyTorch's ``Adam``.

    Parameters
    ----------
    learning_rate : float or callable, default=1e-3
        The α > 0, about the largest change of a parameter in a step.
    beta1 : float or callable, default=0.9
        The β₁ in [0, 1), memory of the mean.
    beta2 : float or callable, default=0.999
        The β₂ in [0, 1), memory of the mean square.
    eps : float or callable, default=1e-8
        The ε > 0 that keeps the division finite.
    weight_decay : float or callable, default=0.0
        The λ ≥ 0, added as the gradient of λ/2 θ², of biases too.
    decoupled_weight_decay, clip_value, clip_norm, average : optional
        As in :class:`Optimizer`.

    Raises
    ------
    TypeError, ValueError
        If a value is not valid.
    """

    factors: ClassVar[tuple[str, ...]] = ("beta1", "beta2")

    learning_rate: Hyperparameter = _learning_rate(1e-3)
    beta1: Hyperparameter = _number(0.9, BELOW_ONE)
    beta2: Hyperparameter = _number(0.999, BELOW_ONE)
    eps: Hyperparameter = _number(1e-8, POSITIVE)
    weight_decay: Hyperparameter = _number(0.0, NOT_NEGATIVE)

    @property
    def row(self) -> catalogue.Optimizer:
        """Row of the update rule in the catalogue."""
        return ROWS["adam"]

    def _columns(self, row: catalogue.Optimizer, n_steps: int) -> Columns:
        columns = super()._columns(row, n_steps)
        for number in "12":
            beta = columns[f"beta{number}"]
            columns[f"rest{number}"] = 1 - beta
            products = self._products_of(f"beta{number}", beta, n_steps)
            columns[f"correction{number}"] = 1 - products
        return columns


@dataclass(eq=False, repr=False)
class AdamW(Adam):
    """Adam with decoupled weight decay: θ ← (1 − αλ)θ before each step of :class:`Adam`.

    Loshchilov, Hutter, Decoupled weight decay regularization, ICLR 2019, algorithm 2, with
    the defaults of PyTorch: λ is multiplied by the learning rate α.

    Parameters
    ----------
    learning_rate : float or callable, default=1e-3
        The α > 0, about the largest change of a parameter in a step.
    beta1 : float or callable, default=0.9
        The β₁ in [0, 1), memory of the mean.
    beta2 : float or callable, default=0.999
        The β₂ in [0, 1), memory of the mean square.
    eps : float or callable, default=1e-8
        The ε > 0 that keeps the division finite.
    weight_decay : float or callable, default=0.01
        The λ ≥ 0, of biases too.
    decoupled_weight_decay : bool, default=True
        It cannot be False: that is :class:`Adam`.
    clip_value, clip_norm, average : optional
        As in :class:`Optimizer`.

    Raises
    ------
    TypeError, ValueError
        If a value is not valid.
    """

    weight_decay: Hyperparameter = _number(1e-2, NOT_NEGATIVE)
    _: KW_ONLY
    decoupled_weight_decay: bool = _choice(True)


@dataclass(eq=False, repr=False)
class NAdam(Adam):
    """NAdam: :class:`Adam` with Nesterov's momentum.

    For each parameter θ with gradient g, at step t = 1, 2 …, with the moments m and v of
    Adam and μₜ = β₁(1 − ½ 0.96^{tψ})::

        θ ← θ − α ((1 − μₜ)/(1 − Πₜ) g + μₜ₊₁/(1 − Πₜ₊₁) m) / (√(v/(1 − β₂ᵗ)) + ε)

    where Πₜ = μ₁μ₂…μₜ. Dozat, Incorporating Nesterov momentum into Adam, ICLR 2016
    workshop, algorithm 2, as in PyTorch with its defaults; a schedule of β₁ or ψ is asked
    one step ahead too.

    Parameters
    ----------
    learning_rate : float or callable, default=2e-3
        The α > 0, about the largest change of a parameter in a step.
    beta1 : float or callable, default=0.9
        The β₁ in [0, 1), memory of the mean.
    beta2 : float or callable, default=0.999
        The β₂ in [0, 1), memory of the mean square.
    eps : float or callable, default=1e-8
        The ε > 0 that keeps the division finite.
    weight_decay : float or callable, default=0.0
        The λ ≥ 0, added as the gradient of λ/2 θ², of biases too.
    momentum_decay : float or callable, default=4e-3
        The ψ ≥ 0, by which μ rises from about β₁/2 to β₁.
    decoupled_weight_decay, clip_value, clip_norm, average : optional
        As in :class:`Optimizer`.

    Raises
    ------
    TypeError, ValueError
        If a value is not valid.
    """

    factors: ClassVar[tuple[str, ...]] = (*Adam.factors, "mu")

    learning_rate: Hyperparameter = _learning_rate(2e-3)
    momentum_decay: Hyperparameter = _number(4e-3, NOT_NEGATIVE)

    @property
    def row(self) -> catalogue.Optimizer:
        """Row of the update rule in the catalogue."""
        return ROWS["nadam"]

    def _columns(self, row: catalogue.Optimizer, n_steps: int) -> Columns:
        columns = super()._columns(row, n_steps)
        mu, next_mu = self._mu(n_steps, 0), self._mu(n_steps, 1)
        products = self._products_of("mu", mu, n_steps)
        rate = columns["learning_rate"]
        columns["gradient_rate"] = rate * (1 - mu) / (1 - products)
        columns["moment_rate"] = rate * next_mu / (1 - products * next_mu)
        return columns

    def _mu(self, n_steps: int, ahead: int) -> Any:
        """Return μ of the next steps, or of those after them."""
        first = self.step_count + 1 + ahead
        t = _column(range(first, first + n_steps))
        exponents = np.ravel(t * self._values("momentum_decay", n_steps, ahead)).tolist()
        # Python's power: the bits of NumPy's depend on the length of the array.
        powers = _column([0.96**exponent for exponent in exponents])
        return self._values("beta1", n_steps, ahead) * (1 - 0.5 * powers)


@dataclass(eq=False, repr=False)
class Adamax(Optimizer):
    """Adamax: Adam with the largest recent gradient in place of the root mean square.

    For each parameter θ with gradient g, at step t = 1, 2 …::

        m ← β₁m + (1 − β₁)g
        u ← max(β₂u, |g| + ε)
        θ ← θ − α/(1 − β₁ᵗ) m/u

    Kingma, Ba: Adam, a method for stochastic optimization, ICLR 2015, algorithm 2; ε is
    not in the paper, it and the defaults are PyTorch's. Where β₁ changes, β₁ᵗ is the
    product of those of all steps.

    Parameters
    ----------
    learning_rate : float or callable, default=2e-3
        The α > 0, the largest change of a parameter in most steps.
    beta1 : float or callable, default=0.9
        The β₁ in [0, 1), memory of the mean.
    beta2 : float or callable, default=0.999
        The β₂ in [0, 1), memory of the largest.
    eps : float or callable, default=1e-8
        The ε > 0 that keeps the division finite.
    weight_decay : float or callable, default=0.0
        The λ ≥ 0, added as the gradient of λ/2 θ², of biases too.
    decoupled_weight_decay, clip_value, clip_norm, average : optional
        As in :class:`Optimizer`.

    Raises
    ------
    TypeError, ValueError
        If a value is not valid.
    """

    factors: ClassVar[tuple[str, ...]] = ("beta1",)

    learning_rate: Hyperparameter = _learning_rate(2e-3)
    beta1: Hyperparameter = _number(0.9, BELOW_ONE)
    beta2: Hyperparameter = _number(0.999, BELOW_ONE)
    eps: Hyperparameter = _number(1e-8, POSITIVE)
    weight_decay: Hyperparameter = _number(0.0, NOT_NEGATIVE)

    @property
    def row(self) -> catalogue.Optimizer:
        """Row of the update rule in the catalogue."""
        return ROWS["adamax"]

    def _columns(self, row: catalogue.Optimizer, n_steps: int) -> Columns:
        columns = super()._columns(row, n_steps)
        products = self._products_of("beta1", columns["beta1"], n_steps)
        rate = columns["learning_rate"] / (1 - products)
        return columns | {"corrected_rate": rate, "rest1": 1 - columns["beta1"]}


@dataclass(eq=False, repr=False)
class Lion(Optimizer):
    """Lion: steps of exactly the learning rate, by the sign of the momentum.

    For each parameter θ with gradient g, learning rate α and weight decay λ::

        θ ← (1 − αλ)θ − α sign(β₁m + (1 − β₁)g)
        m ← β₂m + (1 − β₂)g

    Chen and others, Symbolic discovery of optimization algorithms, NeurIPS 2023, algorithm
    2, whose defaults these are: it wants a learning rate 3 to 10 times smaller than Adam's,
    and a weight decay so many times larger.

    Parameters
    ----------
    learning_rate : float or callable, default=1e-4
        The α > 0, the change of each parameter in a step.
    beta1 : float or callable, default=0.9
        The β₁ in [0, 1), share of the memory in a step.
    beta2 : float or callable, default=0.99
        The β₂ in [0, 1), what the memory keeps.
    weight_decay : float or callable, default=0.0
        The λ ≥ 0, of biases too.
    decoupled_weight_decay : bool, default=True
        It cannot be False: signs would leave little of λθ in the gradient.
    clip_value, clip_norm, average : optional
        As in :class:`Optimizer`.

    Raises
    ------
    TypeError, ValueError
        If a value is not valid.
    """

    learning_rate: Hyperparameter = _learning_rate(1e-4)
    beta1: Hyperparameter = _number(0.9, BELOW_ONE)
    beta2: Hyperparameter = _number(0.99, BELOW_ONE)
    weight_decay: Hyperparameter = _number(0.0, NOT_NEGATIVE)
    _: KW_ONLY
    decoupled_weight_decay: bool = _choice(True)

    @property
    def row(self) -> catalogue.Optimizer:
        """Row of the update rule in the catalogue."""
        return ROWS["lion"]

    def _columns(self, row: catalogue.Optimizer, n_steps: int) -> Columns:
        columns = super()._columns(row, n_steps)
        return columns | {f"rest{n}": 1 - columns[f"beta{n}"] for n in "12"}


def check_optimizer(optimizer: Optimizer) -> Optimizer:
    """Return what a user gave as the optimizer.

    Parameters
    ----------
    optimizer : Optimizer
        What came.

    Returns
    -------
    Optimizer
        The same.

    Raises
    ------
    TypeError
        If it is something else.
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must be an object such as Adam(), got {optimizer!r}")
    return optimizer

"""Check backpropagation against finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._validation import (
    Batch,
    Seed,
    as_generator,
    as_indices,
    check_integer,
    check_real,
    look_up,
)
from .backends import current_kernels, get_backend, threads_for
from .derivatives import present_samples
from .kernels import catalogue, reference
from .layers import Dense, Dropout, PReLU
from .losses import Loss
from .network import MLP, check_dense, check_unpenalized, make_batch
from .pacing import Pace
from .parameters import Gradient, Parameters
from .text import aligned_table
from .trace import output_gradient, slope_of

__all__ = [
    "GradientCheck",
    "PartCheck",
    "check_gradient",
    "finite_difference_gradient",
]

CODES = catalogue.CODES

#: Whether differences are central, and the power of ε that balances rounding against
#: truncation in their step.
REAL_SCHEMES = {"central": (True, 1 / 3), "forward": (False, 1 / 2)}
SCHEMES = dict.fromkeys((*REAL_SCHEMES, "complex"))

#: The imaginary step: its square is nothing beside 1, and no product with it underflows.
COMPLEX_STEP = 1e-20

#: How many times the work of a call is needed for each thread: starting one of Python takes longer.
STARTING = 4.0

#: Kernels of the ways to compute the loss where one parameter has moved.
METHODS = {
    "naive": "network_difference_gradient",
    "fair": "network_fair_difference_gradient",
}

#: Steps to try, relative to the default, where the two gradients disagree: where L bends
#: more than usual, or near a kink, another step is better.
REFINEMENTS = (16.0, 4.0, 1.0, 1 / 4, 1 / 16, 1 / 64)

#: The rounding of sums of numbers of the order of 1, such as L and what L is made of.
ROUNDING = 8 * float(np.finfo(np.float64).eps)

#: The step, relative to the default, that moves a kink no further than rounding does.
WITHIN_ROUNDING = 1e-6

#: A slope s that changes by more than (SMALLEST_JUMP + STEEPEST · |Δz|) · max(1, |s|) between
#: two points has jumped: no smooth σ, and no smooth loss near its target, bends as much.
SMALLEST_JUMP, STEEPEST = 1e-3, 10.0

#: The least jump in the slope of a slope, as Huber's loss has where squares end.
SMALLEST_BEND = 1e-2


def finite_difference_gradient(
    net: MLP,
    X: ArrayLike,
    y: ArrayLike,
    loss: str | Loss = "cross_entropy",
    sample_weight: ArrayLike | None = None,
    *,
    scheme: Literal["central", "forward", "complex"] = "central",
    step: float | None = None,
    method: Literal["naive", "fair"] = "naive",
    entries: ArrayLike | None = None,
) -> Gradient:
    """Estimate the gradient of the mean loss by moving each parameter in turn.

    Central: (L(θ + h) − L(θ − h)) / 2h, error O(h²). Forward: (L(θ + h) − L(θ)) / h,
    error O(h), at half the price. Complex: Im L(θ + ih) / h, error O(h²); it subtracts no
    numbers, so h can be so small that only the rounding of L is left, some 1e-15 (Squire,
    Trapp, Using complex variables to estimate derivatives of real functions, SIAM Review
    40, 1998). It takes the derivative from the right at a kink, and NumPy's equations in
    complex128 whatever the backend and the network's dtype: exact, but slow.

    The naive method takes a forward pass or two for each
    parameter; backpropagation takes about three in all. The fair one, the best that
    differences can do, computes again only what a weight changes: its unit, then the
    layers above. Threads share the parameters, and each estimate is computed by one of
    them, so the result does not depend on how many there are.

    Parameters
    ----------
    net : MLP
        The network; a copy of its parameters is moved. Use ``net.astype("float64")``: real
        differences in float32 leave three digits at best.
    X : array_like of shape (n_samples, n_in) or (n_in,)
        Samples, or one sample.
    y : array_like
        Targets, as for :meth:`MLP.loss`.
    loss : str or Loss, default="cross_entropy"
        The loss, as for :meth:`MLP.loss`.
    sample_weight : array_like of shape (n_samples,), optional
        Weights, as for :meth:`MLP.loss`.
    scheme : {"central", "forward", "complex"}, default="central"
        The formula.
    step : float, optional
        The same h for every parameter; the default is ε^(1/3) · max(1, |θ|) for central and
        ε^(1/2) · max(1, |θ|) for forward differences, with the machine's ε, and 1e-20 for
        complex steps.
    method : {"naive", "fair"}, default="naive"
        What to compute again for each parameter: all, or what it changes. Both give the
        same up to rounding. Complex steps have the naive method only.
    entries : array_like of int, optional
        Which parameters to move, as indices of :meth:`MLP.get_parameters`; all if left out.

    Returns
    -------
    Gradient
        The estimate; NaN for parameters that were not moved.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, or θ ± step rounds to θ for some parameter.
    """
    look_up("scheme", scheme, SCHEMES)
    look_up("method", method, METHODS)
    if method == "fair":
        check_dense(net, "method 'fair'")
        check_unpenalized(net, "method 'fair'")
    if step is not None:
        step = check_real("step", step, "(0, inf)")
    objective, batch = make_batch(net, X, y, loss, sample_weight)
    layout = net.parameters.layout
    n = layout.n_parameters
    chosen = np.arange(n) if entries is None else as_indices("entries", entries, n)
    grad = Gradient(layout)
    grad.arena[layout.indices] = np.nan
    if scheme == "complex":
        if method != "naive":
            raise ValueError(f"method must be 'naive' for scheme 'complex', got {method!r}")
        step = COMPLEX_STEP if step is None else step
        found = _complex_differences(net, batch, objective, layout.indices[chosen], step)
    else:
        central, power = REAL_SCHEMES[scheme]
        steps = _steps(net, power, step)[chosen]
        found = _differences(net, batch, objective, layout.indices[chosen], steps, central, method)
    grad.arena[layout.indices[chosen]] = found
    return grad


def _steps(net: MLP, power: float, step: float | None) -> NDArray[Any]:
    """Return the step of each parameter."""
    theta = net.get_parameters()
    if step is None:
        return _default_steps(theta, power).astype(net.dtype)
    steps = np.full(len(theta), step, net.dtype)
    _check_step(step, steps, theta)
    return steps


def _complex_differences(
    net: MLP,
    batch: Batch,
    loss: Loss,
    indices: NDArray[np.int64],
    step: float,
) -> NDArray[np.float64]:
    """Return the derivatives by some elements of the arena, by complex steps ±h."""
    kernel: Callable[..., None] = reference.network_complex_difference_gradient
    out = np.empty(len(indices))
    steps = np.full_like(out, step)
    kernel(*net.kernel_arguments, *batch, *loss.arguments(net.n_out), indices, steps, out)
    return out


def _default_steps(theta: NDArray[Any], power: float) -> NDArray[Any]:
    return np.finfo(theta.dtype).eps ** power * np.maximum(1, np.abs(theta))


def _check_step(step: float, steps: NDArray[Any], theta: NDArray[Any]) -> None:
    """Refuse a step that rounding swallows: the difference quotient would be 0/0."""
    lost = np.flatnonzero((theta + steps == theta) | (theta - steps == theta))
    if len(lost):
        raise ValueError(
            f"step must move every parameter in {theta.dtype}, but {step:g} is too small for "
            f"parameter {lost[0]}, which is {theta[lost[0]]:g}"
        )


def _differences(
    net: MLP,
    batch: Batch,
    loss: Loss,
    indices: NDArray[np.int64],
    steps: NDArray[Any],
    central: bool,
    method: str = "naive",
) -> NDArray[np.float64]:
    """Return the difference quotient of some elements of the arena, on several threads."""
    n = len(indices)
    n_threads = min(_useful_threads(n * len(batch.x) * net.parameters.layout.work_per_sample), n)
    kernel = getattr(current_kernels(), METHODS[method])
    out = np.empty(n)
    ends = [n * thread // max(n_threads, 1) for thread in range(n_threads + 1)]
    parts = list(map(slice, ends[:-1], ends[1:]))
    shares = [_Share(indices[part], steps[part], out[part]) for part in parts]
    stop = Event()
    fill = partial(_fill, kernel, net, batch, loss, central, stop)
    if n_threads <= 1:
        for share in shares:
            fill(share)
        return out
    with ThreadPoolExecutor(n_threads) as pool:
        try:
            list(pool.map(fill, shares))
        finally:
            stop.set()  # after Ctrl-C, too
    return out


def _useful_threads(work: float) -> int:
    """Return the threads of some work; the NumPy backend holds Python's lock, so one."""
    return 1 if get_backend() == "numpy" else threads_for(work / STARTING)


class _Share(NamedTuple):
    """Elements of the arena that one thread moves, and where their quotients go."""

    indices: NDArray[np.int64]
    steps: NDArray[Any]
    out: NDArray[np.float64]


def _fill(
    kernel: Callable[..., None],
    net: MLP,
    batch: Batch,
    loss: Loss,
    central: bool,
    stop: Event,
    share: _Share,
) -> None:
    """Compute the quotients of a thread's share, on parameters of its own."""
    layout = net.parameters.layout
    moved = Parameters(layout)
    moved.arena[...] = net.parameters.arena
    workspace = net.workspaces.training(len(batch.x), n_threads=1)
    for part in Pace(size=16).slices(len(share.indices)):
        if stop.is_set():
            return
        kernel(
            layout.table,
            layout.settings,
            moved.arena,
            *batch,
            *loss.arguments(net.n_out),
            share.indices[part],
            share.steps[part],
            central,
            share.out[part],
            workspace,
        )


# --- The check ----------------------------------------------------------------------------


@dataclass(frozen=True)
class PartCheck:
    """How far the two gradients of one weight or bias, or of the inputs, are apart.

    Parameters
    ----------
    layer : int or None
        Number of the layer, from 0; None for the inputs.
    kind : {"weight", "bias", "input"}
        Which part.
    shape : tuple of int
        Shape of the part.
    n_compared : int
        Entries that were compared.
    n_kinks : int
        Entries set aside because they lie at a kink.
    max_relative_error : float
        The largest error of those compared, 0 if there are none.
    index : tuple of int
        Where it is.
    analytic : float
        Backpropagation's derivative there.
    numeric : float
        The difference quotient there.
    """

    layer: int | None
    kind: str
    shape: tuple[int, ...]
    n_compared: int
    n_kinks: int
    max_relative_error: float
    index: tuple[int, ...]
    analytic: float
    numeric: float

    @property
    def name(self) -> str:
        """The part as Python's users write it, such as ``weights[0]``."""
        if self.layer is None:
            return "X"
        return f"{'weights' if self.kind == 'weight' else 'biases'}[{self.layer}]"


@dataclass(frozen=True, repr=False)
class GradientCheck:
    """Result of a gradient check; prints as a table.

    Parameters
    ----------
    parts : tuple of PartCheck
        Each weight and bias, and the inputs if they were checked.
    tolerance : float
        Largest relative error of a right gradient.
    """

    parts: tuple[PartCheck, ...]
    tolerance: float

    @property
    def worst(self) -> PartCheck:
        """Part with the largest error; a NaN is larger than any number."""
        errors = [part.max_relative_error for part in self.parts]
        return self.parts[int(np.argmax(errors))]

    @property
    def max_relative_error(self) -> float:
        """The largest error."""
        return self.worst.max_relative_error

    @property
    def n_compared(self) -> int:
        """Entries that were compared."""
        return sum(part.n_compared for part in self.parts)

    @property
    def n_kinks(self) -> int:
        """Entries set aside because they lie at a kink."""
        return sum(part.n_kinks for part in self.parts)

    def ok(self) -> bool:
        """Return whether every error is within the tolerance.

        Returns
        -------
        bool
            False also where an error is NaN, or nothing could be compared.
        """
        return self.n_compared > 0 and self.max_relative_error <= self.tolerance

    def assert_ok(self) -> None:
        """Raise the table as an error unless the check passed.

        Raises
        ------
        AssertionError
            If an error exceeds the tolerance, or nothing could be compared.
        """
        if not self.ok():
            raise AssertionError(str(self))

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        worst = self.worst
        verdict = "passed" if self.ok() else "failed"
        kinks = f", {self.n_kinks:,} at kinks set aside" if self.n_kinks else ""
        summary = (
            f"Gradient check {verdict}: largest relative error {worst.max_relative_error:.1e} in "
            f"{worst.name}{list(worst.index)}, tolerance {self.tolerance:.0e}; "
            f"{self.n_compared:,} entries compared{kinks}"
        )
        header = [
            "part",
            "shape",
            "compared",
            "kinks",
            "max relative error",
            "at",
            "backpropagation",
            "differences",
        ]
        rows = [
            [
                part.name,
                " × ".join(map(str, part.shape)),
                str(part.n_compared),
                str(part.n_kinks),
                f"{part.max_relative_error:.1e}",
                str(list(part.index)),
                f"{part.analytic:.8g}",
                f"{part.numeric:.8g}",
            ]
            for part in self.parts
        ]
        return f"{summary}\n{aligned_table([header, *rows])}"


def check_gradient(
    net: MLP,
    X: ArrayLike,
    y: ArrayLike,
    loss: str | Loss = "cross_entropy",
    sample_weight: ArrayLike | None = None,
    *,
    inputs: bool = True,
    entries_per_part: int | None = None,
    tolerance: float = 1e-7,
    seed: Seed = 0,
) -> GradientCheck:
    """Compare backpropagation with central differences, in float64.

    The error of an entry is |a − n| / max(|n|, r), where a is the analytic and n the
    numeric derivative and r the root mean square of the numeric ones, of all parameters
    or of all inputs: small entries are not held against the rounding of the loss. It is 0
    where |a − n| is at most 8 ε max(1, |L|), the rounding of any sum of the size of L: the
    derivatives of a saturated network may all be as small.

    The step is ε^(1/3) · max(1, |θ|). Where that disagrees, steps 16 times as long to 64
    times as short are tried, and the one counts from which the quotient changes least to
    the next; what backpropagation says has no part in the choice. How quotients change
    says how uncertain the choice is. Where it still disagrees, a complex step (see
    :func:`finite_difference_gradient`) counts in its place, if its result lies within that
    uncertainty: it does not suffer from the rounding of L.

    At a kink, as where a ReLU's input is 0, there is no derivative. So where an entry
    disagrees and a slope of an activation, of the loss or of a penalty jumps within the
    step, the derivative from the left or from the right will do. An entry that agrees with
    neither is set aside and counted if a kink is as near as rounding, for instance one that
    moves two units over their kinks in opposite directions.

    Parameters
    ----------
    net : MLP
        The network; of a float32 network a float64 copy is checked.
    X : array_like of shape (n_samples, n_in) or (n_in,)
        Samples, or one sample.
    y : array_like
        Targets, as for :meth:`MLP.loss`.
    loss : str or Loss, default="cross_entropy"
        The loss, as for :meth:`MLP.loss`.
    sample_weight : array_like of shape (n_samples,), optional
        Weights, as for :meth:`MLP.loss`.
    inputs : bool, default=True
        Whether to check ∂L/∂x too.
    entries_per_part : int, optional
        Random entries to compare of each weight, of each bias and of `X`; all if left
        out. An entry costs two forward passes.
    tolerance : float, default=1e-7
        Largest relative error of a right gradient; the default is what central
        differences reach in float64.
    seed : int or numpy.random.Generator, default=0
        Where the choice of entries comes from.

    Returns
    -------
    GradientCheck
        Has `max_relative_error`, `worst`, `ok()` and `assert_ok()`; prints as a table.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit.
    """
    tolerance = check_real("tolerance", tolerance, "(0, inf)")
    if entries_per_part is not None:
        entries_per_part = check_integer("entries_per_part", entries_per_part, minimum=1)
    generator = as_generator(seed)
    net = net.astype("float64")
    objective, batch = make_batch(net, X, y, loss, sample_weight)
    analytic = net.value_and_grad(X, y, loss, sample_weight)[1].to_vector()
    groups = [(_parameters(net, batch, objective, analytic), list(_parts_of_parameters(net)))]
    if inputs:
        analytic = net.input_gradient(X, y, loss, sample_weight)
        part = _Part(None, "input", analytic.shape, 0)
        present = present_samples(net, X, sample_weight)
        variables = _inputs(net, batch, objective, analytic.ravel(), present)
        groups.append((variables, [part]))
    checks = [
        check
        for variables, parts in groups
        for check in _check_parts(variables, parts, entries_per_part, tolerance, generator)
    ]
    return GradientCheck(tuple(checks), tolerance)


@dataclass(frozen=True)
class _Part:
    """Where a weight or bias, or the inputs, lie in a vector of variables."""

    layer: int | None
    kind: str
    shape: tuple[int, ...]
    start: int


def _parts_of_parameters(net: MLP) -> Iterator[_Part]:
    """Yield weights and biases in the compact order."""
    start = 0
    for layer, pair in enumerate(zip(net.weights, net.biases, strict=True)):
        for kind, array in zip(("weight", "bias"), pair, strict=True):
            if array.size:
                yield _Part(layer, kind, array.shape, start)
            start += array.size


@dataclass(frozen=True)
class _Variables:
    """What is moved, parameters or inputs, numbered in one vector.

    `risk` is L. `differences` takes numbers, steps and whether to take central quotients,
    else forward; `exact` takes numbers and an imaginary step, which goes to the left if it is
    below 0, and returns derivatives; `slopes` takes a number and a value and returns pairs
    (z, σ'(z)), of each layer and last of the loss, where that variable has that value.
    """

    values: NDArray[Any]
    analytic: NDArray[Any]
    risk: float
    differences: Callable[[NDArray[np.int64], NDArray[np.float64], bool], NDArray[np.float64]]
    exact: Callable[[NDArray[np.int64], float], NDArray[np.float64]]
    slopes: Callable[[int, float], list[tuple[NDArray[Any], NDArray[Any]]]]


def _parameters(net: MLP, batch: Batch, loss: Loss, analytic: NDArray[Any]) -> _Variables:
    """Describe the parameters, in the compact order."""
    layout = net.parameters.layout

    def differences(
        positions: NDArray[np.int64], steps: NDArray[np.float64], central: bool
    ) -> NDArray[np.float64]:
        return _differences(net, batch, loss, layout.indices[positions], steps, central)

    def slopes(position: int, value: float) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        moved = Parameters(layout)
        moved.arena[...] = net.parameters.arena
        moved.arena[layout.indices[position]] = value
        return _slopes(net, moved, batch, loss)

    def exact(positions: NDArray[np.int64], step: float) -> NDArray[np.float64]:
        return _complex_differences(net, batch, loss, layout.indices[positions], step)

    risk = net.mean_loss(batch, loss)
    return _Variables(net.get_parameters(), analytic, risk, differences, exact, slopes)


def _inputs(
    net: MLP, batch: Batch, loss: Loss, analytic: NDArray[Any], present: NDArray[np.int64]
) -> _Variables:
    """Describe the inputs, sample by sample; those of weight 0 are not in the batch."""
    n_in = net.n_in
    values = np.zeros((len(analytic) // n_in, n_in))
    values[present] = batch.x

    def differences(
        positions: NDArray[np.int64], steps: NDArray[np.float64], central: bool
    ) -> NDArray[np.float64]:
        out, samples = np.zeros(len(positions)), positions // n_in
        for sample in np.intersect1d(samples, present):
            part, x, share = _sample(batch, np.searchsorted(present, sample))
            for place in np.flatnonzero(samples == sample):
                feature, losses, points = positions[place] % n_in, [], []
                for step in (steps[place], -steps[place] if central else 0):
                    moved = x.copy()
                    moved[0, feature] += step
                    points.append(moved[0, feature])
                    losses.append(net.mean_loss(part._replace(x=moved), loss))
                out[place] = share * (losses[0] - losses[1]) / (points[0] - points[1])
        return out

    def slopes(position: int, value: float) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        part, x, _ = _sample(batch, np.searchsorted(present, position // n_in))
        moved = x.copy()
        moved[0, position % n_in] = value
        return _slopes(net, net.parameters, part._replace(x=moved), loss)

    def exact(positions: NDArray[np.int64], step: float) -> NDArray[np.float64]:
        out = np.zeros(len(positions))
        for place, position in enumerate(positions):
            sample, feature = divmod(position, n_in)
            if sample in present:
                part, x, share = _sample(batch, np.searchsorted(present, sample))
                moved: NDArray[Any] = x.astype(np.complex128)
                moved.imag[0, feature] = step
                out[place] = share * _complex_risk(net, loss, part._replace(x=moved)).imag / step
        return out

    risk = net.mean_loss(batch, loss)
    return _Variables(values.ravel(), analytic, risk, differences, exact, slopes)


def _complex_risk(net: MLP, loss: Loss, batch: Batch) -> complex:
    """Return the mean loss where something is complex."""
    risk: Callable[..., complex] = reference.network_loss
    return risk(*net.kernel_arguments, *batch, *loss.arguments(net.n_out), batch.x)


def _sample(batch: Batch, index: np.intp) -> tuple[Batch, NDArray[Any], float]:
    """Return a sample as a batch of its own, its inputs, and its share in the mean loss."""
    weights = batch.sample_weight
    share = weights[index] / weights.sum() if len(weights) else 1 / len(batch.x)
    part = batch.part(slice(index, index + 1))._replace(sample_weight=weights[:0])
    return part, part.x, float(share)


def _slopes(
    net: MLP, parameters: Parameters, batch: Batch, loss: Loss
) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Return z and σ'(z) of every layer, last the outputs and the slopes of the loss.

    The slopes of a learned rectifier and of a penalty |w| count, too.
    """
    layout, weights = parameters.layout, batch.sample_weight
    passed = reference.layer_outputs(
        layout.table, layout.settings, parameters.arena, batch.x, weights
    )
    used = (layer for layer in net.layers if not isinstance(layer, Dropout))
    pairs, below = [], batch.x
    for layer, (z, a) in zip(used, passed, strict=True):
        if layer.activation_row.elementwise:  # others are smooth
            pairs.append((z, slope_of(layer.activation_row, layer.alpha or 0.0, z, a)))
        if isinstance(layer, PReLU):
            pairs.append((below, np.sign(below)))
        below = a
    for layer, weight, bias in zip(net.layers, parameters.weights, parameters.biases, strict=True):
        if isinstance(layer, Dense) and layer.l1:
            pairs.append((weight, layer.l1 * np.sign(weight)))
            if layer.bias and layer.penalize_bias:
                pairs.append((bias[np.newaxis], layer.l1 * np.sign(bias[np.newaxis])))
    unweighted = batch._replace(sample_weight=weights[:0])
    return [*pairs, (below, len(below) * output_gradient(below, unweighted, loss))]


def _crosses_kink(variables: _Variables, position: int, step: float) -> bool:
    """Return whether a slope jumps between θ − h and θ + h."""
    value = variables.values[position]
    below, above = (variables.slopes(position, value + h) for h in (-step, step))
    return any(
        bool((np.abs(slope2 - slope1) > limit * np.maximum(1, np.abs(slope1))).any())
        for (z1, slope1), (z2, slope2) in zip(below, above, strict=True)
        for limit in (SMALLEST_JUMP + STEEPEST * np.abs(z2 - z1),)
    )


def _crosses_bend(variables: _Variables, position: int, step: float) -> bool:
    """Return whether a slope, or the slope of one, jumps between θ − h and θ + h.

    The second difference of a slope is O(h²) where it is smooth, and O(h) where it bends.
    """
    value = variables.values[position]
    points = (variables.slopes(position, value + h) for h in (-step, 0, step))
    for (z1, slope1), (_, slope2), (z3, slope3) in zip(*points, strict=True):
        moved = np.abs(z3 - z1).max(axis=1, keepdims=True)
        limit = (SMALLEST_BEND + STEEPEST * moved) * moved
        if (np.abs(slope1 - 2 * slope2 + slope3) > limit).any():
            return True
    return False


def _rounding(variables: _Variables) -> float:
    return ROUNDING * max(1, abs(variables.risk))


def _one_sided(
    variables: _Variables, positions: NDArray[np.int64], steps: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the derivative from the side where it is closer to backpropagation's.

    2 F(h) − F(2h), with the forward quotient F(h) = (L(θ + h) − L(θ)) / h, has error O(h²);
    how far it is from F(h), O(h), comes second.
    """
    near, far = (
        np.array([variables.differences(positions, k * h, False) for h in (steps, -steps)])
        for k in (1, 2)
    )
    sides = 2 * near - far
    closer = np.abs(sides - variables.analytic[positions]).argmin(axis=0)
    chosen = closer, np.arange(len(positions))
    return sides[chosen], np.abs(far - near)[chosen]


def _relative_errors(
    analytic: NDArray[np.float64], numeric: NDArray[np.float64], rounding: float
) -> NDArray[np.float64]:
    """Return |a − n| / max(|n|, root mean square of n), 0 within rounding."""
    error, scale = np.abs(analytic - numeric), np.abs(numeric)
    error[error <= rounding] = 0
    scale = np.maximum(scale, np.sqrt(np.mean(scale**2)))
    return np.divide(error, scale, out=error, where=scale > 0)


class _Comparison:
    """Some variables' numeric derivatives, found with more care where the two disagree."""

    def __init__(self, variables: _Variables, positions: NDArray[np.int64]) -> None:
        values = variables.values[positions]
        self.variables, self.positions = variables, positions
        self.default_steps = _default_steps(values, REAL_SCHEMES["central"][1])
        self.steps = self.default_steps.copy()
        self.numeric = variables.differences(positions, self.steps, True)
        self.uncertain, self.at_kink = np.zeros(len(positions)), np.zeros(len(positions), bool)

    def errors(self) -> NDArray[np.float64]:
        """Return the relative errors."""
        analytic = self.variables.analytic[self.positions]
        return _relative_errors(analytic, self.numeric, _rounding(self.variables))

    def improve(self, tolerance: float) -> None:
        """Look again at entries that disagree, in three ways, each entry at most once in each.

        Where quotients turn out smaller their mean falls, and others come to disagree.
        """
        looks = self._refine, self._go_to_one_side, self._settle
        n_looks = np.zeros(len(self.positions), int)
        while (~(self.errors() <= tolerance) & (n_looks < len(looks))).any():
            for number, look in enumerate(looks):
                places = np.flatnonzero(~(self.errors() <= tolerance) & (n_looks == number))
                n_looks[places] += 1
                look(places)

    def _refine(self, places: NDArray[np.int64]) -> None:
        """Choose quotients that change least to the next step.

        What rounding and kinks do to differences of L shows in how quotients change, but
        where L does not change at all.
        """
        variables, positions = self.variables, self.positions[places]
        tried = np.array([self.steps[places] * factor for factor in REFINEMENTS])
        quotients = np.array([variables.differences(positions, each, True) for each in tried])
        changes = np.nan_to_num(np.abs(np.diff(quotients, axis=0)), nan=np.inf)
        best = 1 + changes.argmin(axis=0), np.arange(len(places))
        lost = np.maximum(changes * tried[1:], _rounding(variables)).max(axis=0)
        self.numeric[places], self.steps[places] = quotients[best], tried[best]
        self.uncertain[places] = 4 * lost / tried[best]

    def _go_to_one_side(self, places: NDArray[np.int64]) -> None:
        """Take the derivative of one side where a slope, or the slope of one, jumps."""
        crosses = partial(_crosses_kink, self.variables), partial(_crosses_bend, self.variables)
        bends = np.zeros(len(places), bool)
        for number, place in enumerate(places):
            position = self.positions[place]
            self.at_kink[place] = crosses[0](position, self.steps[place])
            bends[number] = crosses[1](position, self.default_steps[place])
        places = places[bends | self.at_kink[places]]
        positions, steps = self.positions[places], self.default_steps[places] / 4
        of_one_side, correction = _one_sided(self.variables, positions, steps)
        analytic, numeric = self.variables.analytic[positions], self.numeric[places]
        closer = np.abs(of_one_side - analytic) < np.abs(numeric - analytic)
        self.numeric[places] = np.where(closer, of_one_side, numeric)
        self.uncertain[places] += np.where(closer, 4 * correction, 0)

    def _settle(self, places: NDArray[np.int64]) -> None:
        """Take complex steps, to the right or to the left, where the quotients allow it.

        They know the derivative beside a kink, so only one within rounding still counts.
        """
        for step in (COMPLEX_STEP, -COMPLEX_STEP):
            exact = self.variables.exact(self.positions[places], step)
            near = np.abs(exact - self.numeric[places]) <= self.uncertain[places]
            self.numeric[places[near]] = exact[near]
        for place in places[self.at_kink[places]]:
            within = WITHIN_ROUNDING * self.default_steps[place]
            self.at_kink[place] = _crosses_kink(self.variables, self.positions[place], within)


def _check_parts(
    variables: _Variables,
    parts: Sequence[_Part],
    entries_per_part: int | None,
    tolerance: float,
    generator: np.random.Generator,
) -> Iterator[PartCheck]:
    """Compare some entries of each part."""
    chosen = [_chosen(part, entries_per_part, generator) for part in parts]
    positions = np.concatenate(chosen)
    comparison = _Comparison(variables, positions)
    comparison.improve(tolerance)
    analytic, numeric = variables.analytic[positions], comparison.numeric
    errors = comparison.errors()
    kinks = comparison.at_kink & (errors > tolerance)
    errors[kinks] = 0
    ends = np.cumsum([len(each) for each in chosen])
    for part, end, count in zip(parts, ends, map(len, chosen), strict=True):
        rows = slice(end - count, end)
        worst = end - count + int(errors[rows].argmax())
        n_kinks = int(kinks[rows].sum())
        yield PartCheck(
            layer=part.layer,
            kind=part.kind,
            shape=part.shape,
            n_compared=count - n_kinks,
            n_kinks=n_kinks,
            max_relative_error=float(errors[worst]),
            index=tuple(map(int, np.unravel_index(positions[worst] - part.start, part.shape))),
            analytic=float(analytic[worst]),
            numeric=float(numeric[worst]),
        )


def _chosen(
    part: _Part, entries_per_part: int | None, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Return the positions of a part's entries, or of some of them."""
    n = math.prod(part.shape)
    if entries_per_part is None or entries_per_part >= n:
        return part.start + np.arange(n)
    return part.start + np.sort(generator.choice(n, entries_per_part, replace=False))

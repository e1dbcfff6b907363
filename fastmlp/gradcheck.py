"""Check backpropagation against finite differences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._validation import Batch, check_real, look_up
from .backends import current_kernels
from .losses import Loss
from .network import MLP, make_batch
from .pacing import Pace
from .parameters import Gradient, Parameters
from .text import aligned_table

__all__ = [
    "ErrorOfPart",
    "GradientCheck",
    "check_gradient",
    "finite_difference_gradient",
]

#: Whether differences are central, and the power of ε that balances rounding against
#: truncation in their step.
SCHEMES = {"central": (True, 1 / 3), "forward": (False, 1 / 2)}


def finite_difference_gradient(
    net: MLP,
    X: ArrayLike,
    y: ArrayLike,
    loss: str | Loss = "cross_entropy",
    sample_weight: ArrayLike | None = None,
    *,
    scheme: Literal["central", "forward"] = "central",
    step: float | None = None,
) -> Gradient:
    """Estimate the gradient of the mean loss by moving each parameter in turn.

    Central: (L(θ + h) − L(θ − h)) / 2h, error O(h²). Forward: (L(θ + h) − L(θ)) / h,
    error O(h), at half the price. Either takes a forward pass or two for each
    parameter; backpropagation takes about three in all.

    Parameters
    ----------
    net : MLP
        The network; a copy of its parameters is moved. Use ``net.astype("float64")``,
        float32 leaves three digits at best.
    X : array_like of shape (n_samples, n_in) or (n_in,)
        Samples, or one sample.
    y : array_like
        Targets, as for :meth:`MLP.loss`.
    loss : str or Loss, default="cross_entropy"
        The loss, as for :meth:`MLP.loss`.
    sample_weight : array_like of shape (n_samples,), optional
        Weights, as for :meth:`MLP.loss`.
    scheme : {"central", "forward"}, default="central"
        The formula.
    step : float, optional
        The same h for every parameter; the default is ε^(1/3) · max(1, |θ|) for central and
        ε^(1/2) · max(1, |θ|) for forward differences, with the machine's ε.

    Returns
    -------
    Gradient
        The estimate.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, or θ ± step rounds to θ for some parameter.
    """
    central, power = look_up("scheme", scheme, SCHEMES)
    objective, batch = make_batch(net, X, y, loss, sample_weight)
    layout = net.parameters.layout
    theta = net.get_parameters()
    if step is None:
        steps = np.finfo(net.dtype).eps ** power * np.maximum(1, np.abs(theta))
    else:
        steps = np.full(len(theta), check_real("step", step, "(0, inf)"))
        _check_step(step, steps.astype(net.dtype), theta)
    grad = Gradient(layout)
    steps = steps.astype(net.dtype)
    grad.arena[layout.indices] = _differences(net, batch, objective, steps, central)
    return grad


def _check_step(step: float, steps: NDArray[Any], theta: NDArray[Any]) -> None:
    """Refuse a step that rounding swallows: the difference quotient would be 0/0."""
    lost = np.flatnonzero((theta + steps == theta) | (theta - steps == theta))
    if len(lost):
        raise ValueError(
            f"step must move every parameter in {theta.dtype}, but {step:g} is too small for "
            f"parameter {lost[0]}, which is {theta[lost[0]]:g}"
        )


def _differences(
    net: MLP, batch: Batch, loss: Loss, steps: NDArray[Any], central: bool
) -> NDArray[np.float64]:
    """Return the difference quotient of each parameter, in the compact order."""
    layout = net.parameters.layout
    moved = Parameters(layout)
    moved.arena[...] = net.parameters.arena
    workspace = net.workspaces.training(len(batch.x), n_threads=1)
    out = np.empty(len(steps))
    for part in Pace(size=16).slices(len(steps)):
        current_kernels().network_difference_gradient(
            layout.table,
            layout.alphas,
            moved.arena,
            *batch,
            *loss.arguments(net.n_out),
            layout.indices[part],
            steps[part],
            central,
            out[part],
            workspace,
        )
    return out


@dataclass(frozen=True)
class ErrorOfPart:
    """How far the two gradients of one weight or bias are apart.

    Parameters
    ----------
    layer : int
        Number of the layer, from 0.
    kind : {"weight", "bias"}
        Which part of the layer.
    shape : tuple of int
        Shape of the part.
    index : tuple of int
        Where its largest error is.
    max_relative_error : float
        The largest error.
    """

    layer: int
    kind: str
    shape: tuple[int, ...]
    index: tuple[int, ...]
    max_relative_error: float


@dataclass(frozen=True)
class GradientCheck:
    """Result of a gradient check; prints as a table.

    Parameters
    ----------
    parts : tuple of ErrorOfPart
        Each weight and bias.
    """

    parts: tuple[ErrorOfPart, ...]

    @property
    def worst(self) -> ErrorOfPart:
        """Part with the largest error; a NaN is larger than any number."""
        errors = [part.max_relative_error for part in self.parts]
        return self.parts[int(np.argmax(errors))]

    @property
    def max_relative_error(self) -> float:
        """The largest error."""
        return self.worst.max_relative_error

    def ok(self, tolerance: float = 1e-7) -> bool:
        """Return whether every error is within a tolerance.

        Parameters
        ----------
        tolerance : float, default=1e-7
            Largest relative error; the default is what central differences reach in
            float64 away from kinks.

        Returns
        -------
        bool
            False also where an error is NaN.
        """
        return self.max_relative_error <= tolerance

    def __str__(self) -> str:
        header = ["layer", "part", "shape", "max relative error", "at"]
        rows = [
            [
                str(part.layer),
                part.kind,
                " × ".join(map(str, part.shape)),
                f"{part.max_relative_error:.1e}",
                str(list(part.index)),
            ]
            for part in self.parts
        ]
        return aligned_table([header, *rows])


def check_gradient(
    net: MLP,
    X: ArrayLike,
    y: ArrayLike,
    loss: str | Loss = "cross_entropy",
    sample_weight: ArrayLike | None = None,
) -> GradientCheck:
    """Compare backpropagation with central differences, in float64.

    The error of an entry is |a − n| / max(|n|, r), where a is the analytic and n the
    numeric derivative and r the root mean square of the numeric gradient: small entries
    are not held against the rounding of the loss. Where a ReLU's input lies within a
    step of 0, the two may differ although both are right.

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

    Returns
    -------
    GradientCheck
        Has `max_relative_error`, `worst` and `ok()`.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit.
    """
    net = net.astype("float64")
    _, analytic = net.value_and_grad(X, y, loss, sample_weight)
    numeric = finite_difference_gradient(net, X, y, loss, sample_weight)
    error = np.abs(analytic.to_vector() - numeric.to_vector())
    scale = np.abs(numeric.to_vector())
    scale = np.maximum(scale, np.sqrt(np.mean(scale**2)))
    relative = Gradient(net.parameters.layout)
    # Two gradients that are 0 everywhere agree.
    relative.set_vector(np.divide(error, scale, out=error, where=scale > 0))
    return GradientCheck(tuple(_errors_of_parts(relative)))


def _errors_of_parts(relative: Gradient) -> list[ErrorOfPart]:
    """Find the largest error of each weight and bias."""
    parts = []
    for layer, pair in enumerate(zip(relative.weights, relative.biases, strict=True)):
        for kind, errors in zip(("weight", "bias"), pair, strict=True):
            index = tuple(int(i) for i in np.unravel_index(errors.argmax(), errors.shape))
            parts.append(ErrorOfPart(layer, kind, errors.shape, index, float(errors[index])))
    return parts

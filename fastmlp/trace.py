"""Backpropagation step by step: the four equations in NumPy, with all that lies between."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._validation import Batch
from .kernels import catalogue, reference
from .layers import Dropout
from .losses import Loss
from .network import MLP, check_dense, check_unpenalized, make_batch

__all__ = [
    "BackpropTrace",
    "LayerTrace",
    "backprop_trace",
    "output_gradient",
    "slope_of",
]

Array = NDArray[Any]

RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")

#: Elements from which an array is printed without its middle.
LONG = 50


@dataclass(frozen=True, eq=False)
class LayerTrace:
    """What one layer computes, forward and backward.

    Arrays of a batch have a leading axis of samples, those of one sample have none; samples
    of weight 0 are absent.

    Parameters
    ----------
    number : int
        ℓ, from 1.
    activation : str
        Name of σ.
    x : numpy.ndarray of shape (n_samples, n_in) or (n_in,)
        aˡ⁻¹, what comes in.
    z : numpy.ndarray of shape (n_samples, n_out) or (n_out,)
        Pre-activation, Wˡaˡ⁻¹ + bˡ.
    a : numpy.ndarray of shape (n_samples, n_out) or (n_out,)
        Activation, σ(zˡ).
    slope : numpy.ndarray of shape (n_samples, n_out) or (n_out,)
        σ'(zˡ); of softmax the Jacobian diag(a) − a aᵀ, with one more axis of length n_out.
    grad_a : numpy.ndarray of shape (n_samples, n_out) or (n_out,)
        ∂L/∂aˡ: of the last layer from the loss, else (Wˡ⁺¹)ᵀδˡ⁺¹.
    delta : numpy.ndarray of shape (n_samples, n_out) or (n_out,)
        δˡ = ∂L/∂zˡ, by BP1 in the last layer and by BP2 below.
    grad_bias : numpy.ndarray of shape (n_out,)
        ∂L/∂bˡ, by BP3.
    grad_weight : numpy.ndarray of shape (n_out, n_in)
        ∂L/∂Wˡ, by BP4.
    """

    number: int
    activation: str
    x: Array
    z: Array
    a: Array
    slope: Array
    grad_a: Array
    delta: Array
    grad_bias: Array
    grad_weight: Array


@dataclass(frozen=True, eq=False)
class BackpropTrace:
    """Backpropagation on some samples; prints as a walk-through.

    Parameters
    ----------
    network : str
        Description of the network.
    loss : str
        Name of the loss.
    value : float
        The mean loss L.
    layers : tuple of LayerTrace
        From input to output.
    """

    network: str
    loss: str
    value: float
    layers: tuple[LayerTrace, ...]

    def __str__(self) -> str:
        x = self.layers[0].x
        is_batch = x.ndim > 1
        samples = f"a batch of {len(x)}, rows are samples" if is_batch else "one sample"
        return "\n".join(
            [
                f"Backpropagation in {self.network}, {samples}",
                "",
                "Forward",
                _equation(1, "a⁰ = x", x),
                *(line for layer in self.layers for line in _forward_lines(layer)),
                f"  L = {self.value:.6g}, {self.loss}",
                "",
                "Backward",
                *(
                    line
                    for layer in reversed(self.layers)
                    for line in _backward_lines(layer, len(self.layers), is_batch)
                ),
            ]
        )


def _forward_lines(layer: LayerTrace) -> Iterable[str]:
    here, below = _raised(layer.number), _raised(layer.number - 1)
    yield f"  layer {layer.number}, {layer.activation}"
    yield _equation(2, f"z{here} = W{here} a{below} + b{here}", layer.z)
    yield _equation(2, f"a{here} = σ(z{here})", layer.a)


def _backward_lines(layer: LayerTrace, n_layers: int, is_batch: bool) -> Iterable[str]:
    here, above, below = (_raised(layer.number + shift) for shift in (0, 1, -1))
    name, grad_a = "BP2", f"(W{above})ᵀ δ{above}"
    if layer.number == n_layers:
        name, grad_a = "BP1", f"∂L/∂a{here}"
    bias_rule, weight_rule = f"δ{here}", f"δ{here} (a{below})ᵀ"
    if is_batch:
        bias_rule, weight_rule = f"Σᵢ δ{here}ᵢ", f"Σᵢ δ{here}ᵢ (a{below}ᵢ)ᵀ"
    yield f"  layer {layer.number}"
    yield _equation(2, f"     {grad_a}", layer.grad_a)
    yield _equation(2, f"     σ'(z{here})", layer.slope)
    rule = f"{grad_a} ⊙ σ'(z{here})"
    if layer.slope.ndim > layer.delta.ndim:
        rule = f"σ'(z{here}) {grad_a}"
    yield _equation(2, f"{name}  δ{here} = {rule}", layer.delta)
    yield _equation(2, f"BP3  ∂L/∂b{here} = {bias_rule}", layer.grad_bias)
    yield _equation(2, f"BP4  ∂L/∂W{here} = {weight_rule}", layer.grad_weight)


def _raised(number: int) -> str:
    return str(number).translate(RAISED)


def _equation(depth: int, left: str, value: Array) -> str:
    """Write a line, or the first of the lines of a matrix."""
    start = f"{'  ' * depth}{left} = "
    return start + np.array2string(
        value,
        separator=", ",
        prefix=start,
        threshold=LONG,
        formatter={"float_kind": lambda number: f"{number + 0:.5g}"},  # −0 + 0 is 0
    )


def slope_of(row: catalogue.Activation, alpha: float, z: Array, a: Array) -> Array:
    """Return σ'(z).

    Parameters
    ----------
    row : fastmlp.kernels.catalogue.Activation
        Row of σ.
    alpha : float
        Its parameter; any number if it has none.
    z, a : numpy.ndarray of shape (n_samples, n_out)
        Pre-activation and activation.

    Returns
    -------
    numpy.ndarray of shape (n_samples, n_out)
        The derivative of σ; the Jacobians, (n_samples, n_out, n_out), where it takes rows.
    """
    y = a if row.from_output else z
    if not row.elementwise:
        n_out = z.shape[1]
        slope = np.tile(np.eye(n_out, dtype=z.dtype), (len(z), 1))
        reference.activation_backward(np.repeat(y, n_out, axis=0), slope, row.code, 0.0, slope)
        return slope.reshape(-1, n_out, n_out)
    slope = np.ones_like(z)
    reference.activation_backward(y, slope, row.code, alpha, slope)
    return slope


def output_gradient(output: Array, batch: Batch, loss: Loss) -> Array:
    """Return ∂L/∂a of the last layer.

    Parameters
    ----------
    output : numpy.ndarray of shape (n_samples, n_out)
        a of the last layer.
    batch : Batch
        The samples.
    loss : Loss
        The loss.

    Returns
    -------
    numpy.ndarray of shape (n_samples, n_out)
        The derivative of the mean loss.
    """
    grad = np.empty_like(output)
    _, target, labels, sample_weight = batch
    arguments = loss.arguments(output.shape[1])
    reference.loss_backward(output, target, labels, sample_weight, *arguments, grad)
    return grad


def backprop_trace(
    net: MLP,
    X: ArrayLike,
    y: ArrayLike,
    loss: str | Loss = "cross_entropy",
    sample_weight: ArrayLike | None = None,
) -> BackpropTrace:
    """Work through backpropagation, keeping every intermediate result.

    The equations are in NumPy, one after the other, apart from the kernels that train:
    `fastmlp.MLP.value_and_grad` gives the same gradient faster. W¹ is ``net.weights[0]``.

    - BP1: δᴸ = ∂L/∂aᴸ ⊙ σ'(zᴸ)
    - BP2: δˡ = (Wˡ⁺¹)ᵀ δˡ⁺¹ ⊙ σ'(zˡ)
    - BP3: ∂L/∂bˡ = Σᵢ δˡᵢ
    - BP4: ∂L/∂Wˡ = Σᵢ δˡᵢ (aˡ⁻¹ᵢ)ᵀ

    L is the mean loss of the samples, so the 1/n of the mean is in every δ.

    Parameters
    ----------
    net : MLP
        The network.
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
    BackpropTrace
        Its ``layers`` have z, a, δ and both gradients; ``print`` shows the walk-through.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit.
    """
    check_dense(net, "backprop_trace")
    check_unpenalized(net, "backprop_trace")
    objective, batch = make_batch(net, X, y, loss, sample_weight)
    used = [index for index, layer in enumerate(net.layers) if not isinstance(layer, Dropout)]
    layers_used, weights = [net.layers[i] for i in used], [net.weights[i] for i in used]
    passed = reference.layer_outputs(*net.kernel_arguments, batch.x, batch.sample_weight)
    inputs = [batch.x, *(a for _, a in passed[:-1])]
    layers: list[LayerTrace] = []
    grad_a = output_gradient(passed[-1][1], batch, objective)
    for index in reversed(range(len(passed))):
        z, a = passed[index]
        layer = layers_used[index]
        slope = slope_of(layer.activation_row, layer.alpha or 0.0, z, a)
        if slope.ndim > grad_a.ndim:
            delta = np.einsum("ijk,ik->ij", slope, grad_a)
        else:
            delta = grad_a * slope  # BP1 in the last layer, BP2 below
        trace = LayerTrace(
            number=index + 1,
            activation=str(layer.activation),
            x=inputs[index],
            z=z,
            a=a,
            slope=slope,
            grad_a=grad_a,
            delta=delta,
            grad_bias=delta.sum(axis=0),  # BP3
            grad_weight=delta.T @ inputs[index],  # BP4
        )
        layers.insert(0, trace)
        grad_a = delta @ weights[index]
    value = net.mean_loss(batch, objective)
    if np.ndim(X) == 1:
        layers = [_of_one_sample(layer) for layer in layers]
    return BackpropTrace(repr(net), objective.name, value, tuple(layers))


def _of_one_sample(layer: LayerTrace) -> LayerTrace:
    """Take the axis of samples away."""
    values = {field.name: getattr(layer, field.name) for field in fields(layer)}
    for name in ("x", "z", "a", "slope", "grad_a", "delta"):
        values[name] = values[name][0]
    return LayerTrace(**values)

"""Derivatives other than the gradient by the parameters: what the methods of MLP call."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._validation import Array, as_samples, as_vector
from .backends import current_kernels, threads_for
from .losses import Loss
from .network import GRADIENT_WORK, MLP, check_dense, check_unpenalized, make_batch
from .parameters import Gradient, Parameters

__all__ = [
    "gradient_norms",
    "hessian_product",
    "input_gradient",
    "jacobian",
    "present_samples",
    "sample_gradients",
]


def _threads(net: MLP, n_passes: float) -> int:
    """Return the threads for some forward passes of one sample."""
    return threads_for(n_passes * net.parameters.layout.work_per_sample)


def input_gradient(
    net: MLP, X: ArrayLike, y: ArrayLike, loss: str | Loss, sample_weight: ArrayLike | None
) -> Array:
    """Differentiate the mean loss by the inputs.

    Parameters
    ----------
    net : MLP
        The network.
    X, y : array_like
        As for :meth:`MLP.loss`.
    loss : str or Loss
        As for :meth:`MLP.loss`.
    sample_weight : array_like or None
        As for :meth:`MLP.loss`.

    Returns
    -------
    numpy.ndarray of the shape of `X`
        ∂L/∂x, 0 for samples of weight 0.
    """
    objective, batch = make_batch(net, X, y, loss, sample_weight)
    n_threads = _threads(net, GRADIENT_WORK * len(batch.x))
    out = np.empty(batch.x.shape, net.dtype)
    workspace = net.workspaces.training(len(batch.x), n_threads)
    current_kernels().network_input_gradient(
        *net.kernel_arguments, *batch, *objective.arguments(net.n_out), out, workspace, n_threads
    )
    if out.size == np.size(X):
        return out.reshape(np.shape(X))
    grad = np.zeros(np.shape(X), net.dtype)
    grad[present_samples(net, X, sample_weight)] = out
    return grad


def present_samples(net: MLP, X: ArrayLike, sample_weight: ArrayLike | None) -> NDArray[np.int64]:
    """Return which samples are in a batch: those of weights above 0.

    Parameters
    ----------
    net : MLP
        The network.
    X : array_like of shape (n_samples, n_in) or (n_in,)
        Samples that have been checked, or one sample.
    sample_weight : array_like of shape (n_samples,) or None
        Weights that have been checked.

    Returns
    -------
    numpy.ndarray of int64
        Their numbers, in order.
    """
    if sample_weight is None:
        return np.arange(np.size(X) // net.n_in)
    return np.flatnonzero(np.asarray(sample_weight, net.dtype) > 0)


def jacobian(net: MLP, X: ArrayLike) -> Array:
    """Differentiate the outputs by the inputs.

    Parameters
    ----------
    net : MLP
        The network.
    X : array_like of shape (n_samples, n_in) or (n_in,)
        Samples, or one sample.

    Returns
    -------
    numpy.ndarray of shape (n_samples, n_out, n_in) or (n_out, n_in)
        ∂F/∂x of each sample.
    """
    check_dense(net, "jacobian")
    x, single = as_samples(X, net.n_in, net.dtype)
    n_threads = _threads(net, (1 + net.n_out) * len(x))
    out = np.empty((len(x) * net.n_out, net.n_in), net.dtype)
    workspace = net.workspaces.jacobian(len(x), n_threads)
    current_kernels().network_jacobian(*net.kernel_arguments, x, out, workspace, n_threads)
    return out if single else out.reshape(len(x), net.n_out, net.n_in)


def sample_gradients(net: MLP, X: ArrayLike, y: ArrayLike, loss: str | Loss) -> Array:
    """Differentiate each sample's own loss by the parameters.

    Parameters
    ----------
    net : MLP
        The network.
    X, y : array_like
        As for :meth:`MLP.loss`.
    loss : str or Loss
        As for :meth:`MLP.loss`.

    Returns
    -------
    numpy.ndarray of shape (n_samples, n_parameters) or (n_parameters,)
        ∂Lᵢ/∂θ of each sample, in the compact order.
    """
    objective, (x, target, labels, _) = make_batch(net, X, y, loss)
    layout = net.parameters.layout
    n_threads = _threads(net, GRADIENT_WORK * len(x))
    out = np.empty((len(x), layout.n_elements), net.dtype)
    workspace = net.workspaces.sample(n_threads)
    current_kernels().network_sample_gradients(
        *net.kernel_arguments,
        x,
        target,
        labels,
        *objective.arguments(net.n_out),
        out,
        workspace,
        n_threads,
    )
    found = np.take(out, layout.indices, axis=1)  # three times as fast as out[:, indices]
    return found[0] if np.ndim(X) == 1 else found


def gradient_norms(net: MLP, X: ArrayLike, y: ArrayLike, loss: str | Loss) -> Array:
    """Compute the norm of the gradient of each sample's own loss.

    Parameters
    ----------
    net : MLP
        The network.
    X, y : array_like
        As for :meth:`MLP.loss`.
    loss : str or Loss
        As for :meth:`MLP.loss`.

    Returns
    -------
    numpy.ndarray of shape (n_samples,) or ()
        ‖∂Lᵢ/∂θ‖ of each sample.
    """
    check_dense(net, "gradient_norms")
    objective, (x, target, labels, _) = make_batch(net, X, y, loss)
    n_threads = _threads(net, GRADIENT_WORK * len(x))
    out = np.empty(len(x), net.dtype)
    workspace = net.workspaces.training(len(x), n_threads)
    current_kernels().network_gradient_norms(
        *net.kernel_arguments,
        x,
        target,
        labels,
        *objective.arguments(net.n_out),
        out,
        workspace,
        n_threads,
    )
    return out[0] if np.ndim(X) == 1 else out


def hessian_product(
    net: MLP,
    X: ArrayLike,
    y: ArrayLike,
    vector: ArrayLike,
    loss: str | Loss,
    sample_weight: ArrayLike | None,
) -> Gradient:
    """Multiply the Hessian of the mean loss by a vector.

    Parameters
    ----------
    net : MLP
        The network.
    X, y : array_like
        As for :meth:`MLP.loss`.
    vector : array_like of shape (n_parameters,)
        What to multiply, in the compact order.
    loss : str or Loss
        As for :meth:`MLP.loss`.
    sample_weight : array_like or None
        As for :meth:`MLP.loss`.

    Returns
    -------
    Gradient
        ∂²L/∂θ² · vector.

    Raises
    ------
    ValueError
        If the kernels lack a second derivative.
    """
    check_dense(net, "hessian_product")
    check_unpenalized(net, "hessian_product")
    objective, batch = make_batch(net, X, y, loss, sample_weight)
    _check_second_derivatives(net)
    layout = net.parameters.layout
    direction, product = Parameters(layout), Gradient(layout)
    direction.arena[layout.indices] = as_vector("vector", vector, layout.n_parameters, net.dtype)
    n_threads = _threads(net, 3 * GRADIENT_WORK * len(batch.x))
    layers, settings, parameters = net.kernel_arguments
    current_kernels().network_hessian_product(
        layers,
        settings,
        parameters,
        direction.arena,
        *batch,
        *objective.arguments(net.n_out),
        product.arena,
        net.workspaces.hessian(len(batch.x), n_threads),
        n_threads,
    )
    return product


def _check_second_derivatives(net: MLP) -> None:
    """Refuse what the kernels cannot differentiate twice."""
    for layer in net.layers:
        if layer.activation_row.second_derivative is None:
            raise ValueError(
                f"activation {str(layer.activation)!r} has no second derivative in the kernels"
            )

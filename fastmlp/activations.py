"""Activations by name, and the two that turn logits into probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _validation
from .backends import current_kernels
from .kernels import catalogue

__all__ = ["ACTIVATIONS", "check_alpha", "get", "sigmoid", "softmax"]

#: Rows of the catalogue by name and by other names.
ACTIVATIONS = {name: row for row in catalogue.ACTIVATIONS for name in (row.name, *row.aliases)}


def get(name: str, argument: str = "activation") -> catalogue.Activation:
    """Look an activation up.

    Parameters
    ----------
    name : str
        Its name.
    argument : str, default="activation"
        What the user calls it, for the error.

    Returns
    -------
    fastmlp.kernels.catalogue.Activation
        Its row of the catalogue.

    Raises
    ------
    TypeError, ValueError
        If there is none of that name.
    """
    return _validation.look_up(argument, name, ACTIVATIONS)


def check_alpha(activation: catalogue.Activation, alpha: float | None) -> float | None:
    """Return the parameter α that an activation will use.

    Parameters
    ----------
    activation : fastmlp.kernels.catalogue.Activation
        Row of the activation.
    alpha : float or None
        What the user asked for; None for the default.

    Returns
    -------
    float or None
        In the range that the activation's row names: not below 0, because a derivative
        that is taken from the output needs an output of the input's sign. None if the
        activation has no parameter.

    Raises
    ------
    TypeError, ValueError
        If it is no such number, or the activation has no parameter.
    """
    if alpha is None:
        return activation.alpha
    if activation.alpha is None:
        raise ValueError(f"alpha must be None for {activation.name!r}, got {alpha!r}")
    return _validation.check_real("alpha", alpha, activation.alpha_range)


def softmax(logits: ArrayLike) -> NDArray[Any]:
    """Turn logits into probabilities of classes: exp(zⱼ) / Σₖ exp(zₖ).

    Parameters
    ----------
    logits : array_like of shape (..., n_classes)
        Logits z, for instance what ``net.predict`` returns.

    Returns
    -------
    numpy.ndarray of shape (..., n_classes)
        Probabilities along the last axis; float32 for float32, else float64.

    Raises
    ------
    TypeError, ValueError
        If `logits` does not hold real numbers or has no axis.
    """
    z = _as_float("logits", logits)
    if not z.ndim:
        raise ValueError("logits must have an axis of classes, got a scalar")
    out = np.empty(z.shape, z.dtype)
    n_classes = z.shape[-1]
    if out.size:
        current_kernels().softmax_forward(z.reshape(-1, n_classes), out.reshape(-1, n_classes))
    return out


def sigmoid(z: ArrayLike) -> NDArray[Any]:
    """Turn logits into probabilities of yes: 1 / (1 + exp(−z)), element by element.

    Parameters
    ----------
    z : array_like
        Logits.

    Returns
    -------
    numpy.ndarray
        Probabilities, of the shape of `z`; float32 for float32, else float64.

    Raises
    ------
    TypeError
        If `z` does not hold real numbers.
    """
    array = _as_float("z", z)
    out = np.empty(array.shape, array.dtype)
    if out.size:
        code = ACTIVATIONS["sigmoid"].code
        current_kernels().activation_forward(array.reshape(1, -1), code, 0.0, out.reshape(1, -1))
    return out[()]


def _as_float(argument: str, value: ArrayLike) -> NDArray[Any]:
    """Return a contiguous array of float32 if it was one, else of float64."""
    array = _validation.real_array(argument, value)
    dtype = np.float32 if array.dtype == np.float32 else np.float64
    return np.asarray(array, dtype, order="C")

"""Activations by name or by a user's functions, and two that turn logits into probabilities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _validation
from .backends import current_kernels
from .kernels import catalogue, custom

__all__ = ["ACTIVATIONS", "CustomActivation", "check_alpha", "get", "sigmoid", "softmax"]

#: Rows of the catalogue by name and by other names.
ACTIVATIONS = {
    name: row
    for row in (*catalogue.ACTIVATIONS, *catalogue.OUTPUT_ACTIVATIONS)
    for name in (row.name, *row.aliases)
}

#: Where a user's derivative is compared with differences: at no round number, for there the
#: kinks are. Rounding and truncation err by 1e-10 for functions like those of the catalogue.
CHECKED_POINTS = np.arange(-8, 8, 0.05) + 0.0137
CHECKED_STEP, CHECKED_TOLERANCE = 1e-5, 1e-6

#: Where a user's functions must be numbers, too: training may get there for a moment.
FAR_POINTS = np.array([-100.0, -20.0, 0.0, 20.0, 100.0])


@dataclass(frozen=True, repr=False)
class CustomActivation:
    """An activation of the user's own, y = σ(z) for each number: from two Python functions.

    Numba compiles them when the object is made (about a second), and every backend calls
    what it compiled: the language is Numba's, with ``math`` or ``numpy`` functions of one
    number. The derivative is checked against differences. Use it wherever a name of
    :data:`ACTIVATIONS` would do, ``Dense(4, 8, activation=sine)``; files keep its name only,
    see :func:`fastmlp.load`.

    Parameters
    ----------
    name : str
        What files and descriptions call it; none of the names that exist.
    function : callable
        σ, of one number z.
    derivative : callable
        σ', of one number: of z, or of y = σ(z) if `takes` says so.
    takes : {"z", "y"}, default="z"
        What the derivative is a function of; y saves memory and time.
    second_derivative : callable, optional
        σ'', of what the derivative takes; :meth:`MLP.hessian_product` needs it.

    Raises
    ------
    TypeError, ValueError
        If an argument is not valid, Numba cannot compile a function, its values are not
        finite, or a derivative is wrong: then the message has the worst point.

    Examples
    --------
    >>> import math
    >>> sine = CustomActivation("sine", lambda z: math.sin(z), lambda z: math.cos(z))
    """

    name: str
    function: Callable[[float], float]
    derivative: Callable[[float], float]
    takes: Literal["z", "y"] = "z"
    second_derivative: Callable[[float], float] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"name must be a string, got {self.name!r}")
        if not self.name or self.name in ACTIVATIONS:
            raise ValueError(f"name must be a new one, got {self.name!r}")
        _validation.check_option("takes", self.takes, ("z", "y"))
        for argument in ("function", "derivative", "second_derivative"):
            value = getattr(self, argument)
            if not callable(value) and (value is not None or argument != "second_derivative"):
                raise TypeError(f"{argument} must be a function of one number, got {value!r}")
        _check_derivatives(self)

    def __reduce__(self) -> tuple[Any, ...]:
        # Addresses of compiled functions mean nothing in another process.
        functions = self.function, self.derivative, self.takes, self.second_derivative
        return CustomActivation, (self.name, *functions)

    def __repr__(self) -> str:
        return f"<activation {self.name!r}>"

    def __str__(self) -> str:
        return self.name

    @cached_property
    def row(self) -> catalogue.Activation:
        """What kernels and layers know of it, as of an activation of the catalogue."""
        functions = self.function, self.derivative, self.second_derivative
        try:
            compiled = custom.compile_activation(*functions, self.takes == "z")
        except Exception as error:  # Numba's own, of many types
            raise TypeError(
                f"activation {self.name!r} must be made of functions of one number that Numba "
                f"compiles, got: {error}"
            ) from error
        return catalogue.Activation(
            self.name,
            compiled.code,
            "the user's function of z",
            f"the user's function of {self.takes}",
            from_output=self.takes == "y",
            second_derivative=None if self.second_derivative is None else "the user's function",
        )


def _check_derivatives(activation: CustomActivation) -> None:
    """Compare a user's derivatives with differences of what they are derivatives of."""
    columns = ["CUSTOM_FORWARD", "CUSTOM_GRADIENT", "CUSTOM_CURVATURE"]
    columns = columns[: 2 if activation.second_derivative is None else 3]
    z = np.concatenate([CHECKED_POINTS, FAR_POINTS])
    steps = (z - CHECKED_STEP, z, z + CHECKED_STEP)
    values = [[_evaluate(activation, column, point) for point in steps] for column in columns]
    for argument, (_, value, _) in zip(
        ("function", "derivative", "second_derivative"), values, strict=False
    ):
        wrong = np.flatnonzero(~np.isfinite(value))
        if wrong.size:
            raise ValueError(
                f"{argument} must be finite from z = -100 to 100, got {value[wrong[0]]} at "
                f"z = {z[wrong[0]]:.6g}"
            )
    near = slice(len(CHECKED_POINTS))
    for argument, (below, _, above), (_, slope, _) in zip(
        ("derivative", "second_derivative"), values, values[1:], strict=False
    ):
        difference = (above - below)[near] / (steps[2] - steps[0])[near]
        error = np.abs(slope[near] - difference) / (1 + np.abs(difference))
        worst = int(error.argmax())
        if error[worst] > CHECKED_TOLERANCE:
            raise ValueError(
                f"{argument} of activation {activation.name!r} is wrong: at z = {z[worst]:.6g} "
                f"it is {slope[worst]:.6g}, where differences give {difference[worst]:.6g}"
            )


def _evaluate(activation: CustomActivation, column: str, z: NDArray[Any]) -> NDArray[Any]:
    """Return σ(z), σ'(z) or σ''(z)."""
    code, source = activation.row.code, z
    if column != "CUSTOM_FORWARD" and activation.takes == "y":
        source = _evaluate(activation, "CUSTOM_FORWARD", z)
    out = np.ones_like(z)
    custom.apply(code, column, source, out)
    return out


def get(name: str | CustomActivation, argument: str = "activation") -> catalogue.Activation:
    """Look an activation up.

    Parameters
    ----------
    name : str or CustomActivation
        Its name, or the user's own.
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
    if isinstance(name, CustomActivation):
        return name.row
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
    return _validation.for_kernels(array, np.dtype(dtype))

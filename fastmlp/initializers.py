"""Initial weights by name.

An initialiser is a function ``(generator, n_in, n_out) -> array (n_out, n_in)``; a
user's own has the same form. Numbers are drawn in float64 and rounded later, so one
seed gives the same network in float32 and float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _validation

__all__ = [
    "INITIALIZERS",
    "Initializer",
    "get",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "zeros",
]

Initializer = Callable[[np.random.Generator, int, int], NDArray[Any]]


def he_normal(generator: np.random.Generator, n_in: int, n_out: int) -> NDArray[np.float64]:
    """Draw from N(0, 2/n_in), which keeps the variance of activations through ReLUs.

    He, Zhang, Ren, Sun: Delving deep into rectifiers, ICCV 2015, equation 10.

    Parameters
    ----------
    generator : numpy.random.Generator
        Source of random numbers.
    n_in, n_out : int
        Sizes of the layer.

    Returns
    -------
    numpy.ndarray of shape (n_out, n_in)
        Weights.
    """
    return generator.normal(0.0, np.sqrt(2 / n_in), (n_out, n_in))


def he_uniform(generator: np.random.Generator, n_in: int, n_out: int) -> NDArray[np.float64]:
    """Draw from U(−b, b) with b = √(6/n_in): the variance 2/n_in of :func:`he_normal`.

    He, Zhang, Ren, Sun: Delving deep into rectifiers, ICCV 2015, equation 10, for the
    uniform distribution.

    Parameters
    ----------
    generator : numpy.random.Generator
        Source of random numbers.
    n_in, n_out : int
        Sizes of the layer.

    Returns
    -------
    numpy.ndarray of shape (n_out, n_in)
        Weights.
    """
    bound = np.sqrt(6 / n_in)
    return generator.uniform(-bound, bound, (n_out, n_in))


def glorot_normal(generator: np.random.Generator, n_in: int, n_out: int) -> NDArray[np.float64]:
    """Draw from N(0, 2/(n_in + n_out)), between the needs of forward and backward.

    Glorot, Bengio: Understanding the difficulty of training deep feedforward neural
    networks, AISTATS 2010, equation 12.

    Parameters
    ----------
    generator : numpy.random.Generator
        Source of random numbers.
    n_in, n_out : int
        Sizes of the layer.

    Returns
    -------
    numpy.ndarray of shape (n_out, n_in)
        Weights.
    """
    return generator.normal(0.0, np.sqrt(2 / (n_in + n_out)), (n_out, n_in))


def glorot_uniform(generator: np.random.Generator, n_in: int, n_out: int) -> NDArray[np.float64]:
    """Draw from U(−b, b) with b = √(6/(n_in + n_out)).

    Glorot, Bengio: Understanding the difficulty of training deep feedforward neural
    networks, AISTATS 2010, equation 16.

    Parameters
    ----------
    generator : numpy.random.Generator
        Source of random numbers.
    n_in, n_out : int
        Sizes of the layer.

    Returns
    -------
    numpy.ndarray of shape (n_out, n_in)
        Weights.
    """
    bound = np.sqrt(6 / (n_in + n_out))
    return generator.uniform(-bound, bound, (n_out, n_in))


def zeros(generator: np.random.Generator, n_in: int, n_out: int) -> NDArray[np.float64]:
    """Return zeros; only for a last layer, since equal hidden units stay equal.

    Parameters
    ----------
    generator : numpy.random.Generator
        Not used.
    n_in, n_out : int
        Sizes of the layer.

    Returns
    -------
    numpy.ndarray of shape (n_out, n_in)
        Weights.
    """
    return np.zeros((n_out, n_in))


INITIALIZERS: dict[str, Initializer] = {
    function.__name__: function
    for function in (he_normal, he_uniform, glorot_normal, glorot_uniform, zeros)
}


def get(initializer: str | Initializer) -> Initializer:
    """Look an initialiser up.

    Parameters
    ----------
    initializer : str or callable
        A name, or a function of the same form.

    Returns
    -------
    callable
        The function.

    Raises
    ------
    TypeError, ValueError
        If it is neither callable nor a known name.
    """
    if callable(initializer):
        return initializer
    return _validation.look_up("initializer", initializer, INITIALIZERS)

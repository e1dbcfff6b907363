"""Initial weights by name.

An initialiser is a function ``(generator, n_in, n_out) -> array (n_out, n_in)``; a
user's own has the same form. Numbers are drawn in float64 and rounded later, so one
seed gives the same network in float32 and float64.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _validation
from .kernels import catalogue

__all__ = [
    "INITIALIZERS",
    "Initializer",
    "constant",
    "default",
    "get",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "lecun_normal",
    "lecun_uniform",
    "normal",
    "orthogonal",
    "uniform",
    "zeros",
]

Initializer = Callable[[np.random.Generator, int, int], NDArray[Any]]


def he_normal(
    generator: np.random.Generator, n_in: int, n_out: int, slope: float = 0.0
) -> NDArray[np.float64]:
    """Draw from N(0, v), v = 2 / ((1 + slope²) n_in): ReLUs then keep the variance.

    He, Zhang, Ren, Sun: Delving deep into rectifiers, ICCV 2015, equations 10 and 15.

    Parameters
    ----------
    generator : numpy.random.Generator
        Source of random numbers.
    n_in, n_out : int
        Sizes of the layer.
    slope : float, default=0
        Slope of the activation below 0.

    Returns
    -------
    numpy.ndarray of shape (n_out, n_in)
        Weights.
    """
    return generator.normal(0.0, np.sqrt(2 / ((1 + slope**2) * n_in)), (n_out, n_in))


def he_uniform(
    generator: np.random.Generator, n_in: int, n_out: int, slope: float = 0.0
) -> NDArray[np.float64]:
    """Draw from U(−b, b), b = √(6 / ((1 + slope²) n_in)): the variance of :func:`he_normal`.

    He, Zhang, Ren, Sun: Delving deep into rectifiers, ICCV 2015, equations 10 and 15, for
    the uniform distribution.

    Parameters
    ----------
    generator : numpy.random.Generator
        Source of random numbers.
    n_in, n_out : int
        Sizes of the layer.
    slope : float, default=0
        Slope of the activation below 0.

    Returns
    -------
    numpy.ndarray of shape (n_out, n_in)
        Weights.
    """
    bound = np.sqrt(6 / ((1 + slope**2) * n_in))
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


def lecun_normal(generator: np.random.Generator, n_in: int, n_out: int) -> NDArray[np.float64]:
    """Draw from N(0, 1/n_in): z has the variance of the inputs, as SELU wants it.

    LeCun, Bottou, Orr, Müller: Efficient BackProp, 1998, section 4.6; Klambauer et al.:
    Self-normalizing neural networks, NeurIPS 2017.

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
    return generator.normal(0.0, np.sqrt(1 / n_in), (n_out, n_in))


def lecun_uniform(generator: np.random.Generator, n_in: int, n_out: int) -> NDArray[np.float64]:
    """Draw from U(−b, b) with b = √(3/n_in): the variance 1/n_in of :func:`lecun_normal`.

    LeCun, Bottou, Orr, Müller: Efficient BackProp, 1998, section 4.6.

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
    bound = np.sqrt(3 / n_in)
    return generator.uniform(-bound, bound, (n_out, n_in))


def orthogonal(
    generator: np.random.Generator, n_in: int, n_out: int, gain: float = 1.0
) -> NDArray[np.float64]:
    """Draw a matrix with orthonormal rows or columns, whichever are fewer.

    All such matrices are equally likely: Q of a random normal matrix's QR decomposition,
    with R's diagonal made positive (Mezzadri, Notices of the AMS 54, 2007). Saxe,
    McClelland, Ganguli: Exact solutions to the nonlinear dynamics of learning in deep
    linear neural networks, ICLR 2014.

    Parameters
    ----------
    generator : numpy.random.Generator
        Source of random numbers.
    n_in, n_out : int
        Sizes of the layer.
    gain : float, default=1
        Factor of the matrix, its only singular value.

    Returns
    -------
    numpy.ndarray of shape (n_out, n_in)
        Weights.
    """
    normals = generator.normal(size=(max(n_in, n_out), min(n_in, n_out)))
    q, r = np.linalg.qr(normals)
    q *= np.where(np.diag(r) < 0, -gain, gain)
    return q if n_out >= n_in else q.T


def normal(
    generator: np.random.Generator, n_in: int, n_out: int, std: float = 0.05
) -> NDArray[np.float64]:
    """Draw from N(0, std²).

    Parameters
    ----------
    generator : numpy.random.Generator
        Source of random numbers.
    n_in, n_out : int
        Sizes of the layer.
    std : float, default=0.05
        Standard deviation, as in Keras; for another, pass
        ``functools.partial(normal, std=…)``.

    Returns
    -------
    numpy.ndarray of shape (n_out, n_in)
        Weights.
    """
    return generator.normal(0.0, std, (n_out, n_in))


def uniform(
    generator: np.random.Generator, n_in: int, n_out: int, bound: float = 0.05
) -> NDArray[np.float64]:
    """Draw from U(−bound, bound).

    Parameters
    ----------
    generator : numpy.random.Generator
        Source of random numbers.
    n_in, n_out : int
        Sizes of the layer.
    bound : float, default=0.05
        Largest weight, as in Keras; for another, pass
        ``functools.partial(uniform, bound=…)``.

    Returns
    -------
    numpy.ndarray of shape (n_out, n_in)
        Weights.
    """
    return generator.uniform(-bound, bound, (n_out, n_in))


def constant(
    generator: np.random.Generator, n_in: int, n_out: int, value: float = 0.01
) -> NDArray[np.float64]:
    """Return equal weights; only for a last layer, since equal hidden units stay equal.

    Parameters
    ----------
    generator : numpy.random.Generator
        Not used.
    n_in, n_out : int
        Sizes of the layer.
    value : float, default=0.01
        The weight; for another, pass ``functools.partial(constant, value=…)``.

    Returns
    -------
    numpy.ndarray of shape (n_out, n_in)
        Weights.
    """
    return np.full((n_out, n_in), value)


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
    for function in (
        he_normal,
        he_uniform,
        glorot_normal,
        glorot_uniform,
        lecun_normal,
        lecun_uniform,
        orthogonal,
        normal,
        uniform,
        constant,
        zeros,
    )
}


def default(activation: catalogue.Activation, alpha: float | None) -> Initializer:
    """Return the initialiser that suits an activation.

    He's normal distribution for activations that pass z on above 0 and little below, with
    the slope below 0 of leaky ReLU taken into account; LeCun's for SELU; Glorot's uniform
    distribution for those that saturate on both sides, and for none.

    Parameters
    ----------
    activation : fastmlp.kernels.catalogue.Activation
        Row of the activation.
    alpha : float or None
        Its parameter.

    Returns
    -------
    callable
        The function.
    """
    initializer = INITIALIZERS[activation.initializer]
    if activation.alpha_is_slope:
        return functools.partial(initializer, slope=alpha)  # type: ignore[call-arg]
    return initializer


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

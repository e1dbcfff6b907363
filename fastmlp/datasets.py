"""Data to try things on: handwritten digits, and generators of small problems.

Inputs are float32, labels are int64. Generators give the same numbers for the same
seed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ._validation import Seed, as_generator, check_integer, check_real

__all__ = ["load_digits", "make_moons", "make_noisy_sine", "make_spirals", "make_xor"]

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


def load_digits() -> tuple[Floats, Labels, Floats, Labels]:
    """Load 1,797 handwritten digits of 8 × 8 pixels, split into two parts.

    The split is fixed: of each digit 80 % are for training, drawn once at random.

    Alpaydin, Kaynak: Optical Recognition of Handwritten Digits, UCI Machine Learning
    Repository, 1998, doi:10.24432/C50P49, licence CC BY 4.0; these are its test
    samples, as scikit-learn distributes them.

    Returns
    -------
    X_train : numpy.ndarray of float32, shape (1437, 64)
        Pixels, row by row, from 0 (white) to 1.
    y_train : numpy.ndarray of int64, shape (1437,)
        Digits.
    X_test : numpy.ndarray of float32, shape (360, 64)
        Pixels of the test part.
    y_test : numpy.ndarray of int64, shape (360,)
        Digits of the test part.
    """
    with np.load(Path(__file__).parent / "data" / "digits.npz", allow_pickle=False) as file:
        images, labels, is_test = file["images"], file["labels"], file["is_test"]
    X = images.astype(np.float32) / 16
    y = labels.astype(np.int64)
    return X[~is_test], y[~is_test], X[is_test], y[is_test]


def make_moons(n: int = 400, noise: float = 0.1, seed: Seed = None) -> tuple[Floats, Labels]:
    """Draw two interleaving half circles.

    Parameters
    ----------
    n : int, default=400
        Samples, at least 2.
    noise : float, default=0.1
        Standard deviation that is added to the points; the circles have radius 1.
    seed : int or numpy.random.Generator, optional
        Where random numbers come from.

    Returns
    -------
    X : numpy.ndarray of float32, shape (n, 2)
        Points.
    y : numpy.ndarray of int64, shape (n,)
        0 for the upper and 1 for the lower half circle.

    Raises
    ------
    TypeError, ValueError
        If an argument is not valid.
    """
    generator = as_generator(seed)
    y = _shuffled_labels(n, 2, generator)
    angle = generator.uniform(0, np.pi, n)
    upper = np.column_stack([np.cos(angle), np.sin(angle)])
    points = np.where(y[:, None] == 0, upper, np.array([1.0, 0.5]) - upper)
    return _with_noise(points, noise, generator), y


def make_spirals(
    n: int = 600, n_classes: int = 3, noise: float = 0.05, seed: Seed = None
) -> tuple[Floats, Labels]:
    """Draw spiral arms around the origin, one for each class.

    Parameters
    ----------
    n : int, default=600
        Samples, at least `n_classes`.
    n_classes : int, default=3
        Arms, at least 2.
    noise : float, default=0.05
        Standard deviation that is added to the points; the arms end at radius 1.
    seed : int or numpy.random.Generator, optional
        Where random numbers come from.

    Returns
    -------
    X : numpy.ndarray of float32, shape (n, 2)
        Points.
    y : numpy.ndarray of int64, shape (n,)
        Number of the arm.

    Raises
    ------
    TypeError, ValueError
        If an argument is not valid.
    """
    n_classes = check_integer("n_classes", n_classes, minimum=2)
    generator = as_generator(seed)
    y = _shuffled_labels(n, n_classes, generator)
    radius = generator.uniform(0.1, 1, n)
    angle = 2 * np.pi * (y / n_classes + 0.7 * radius)
    points = radius[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
    return _with_noise(points, noise, generator), y


def make_xor(n: int = 400, noise: float = 0.1, seed: Seed = None) -> tuple[Floats, Labels]:
    """Draw points around the corners of a square, whose diagonals are the classes.

    Parameters
    ----------
    n : int, default=400
        Samples, at least 2.
    noise : float, default=0.1
        Standard deviation that is added to the corners (0 or 1, 0 or 1).
    seed : int or numpy.random.Generator, optional
        Where random numbers come from.

    Returns
    -------
    X : numpy.ndarray of float32, shape (n, 2)
        Points.
    y : numpy.ndarray of int64, shape (n,)
        1 where exactly one coordinate of the corner is 1, else 0.

    Raises
    ------
    TypeError, ValueError
        If an argument is not valid.
    """
    generator = as_generator(seed)
    y = _shuffled_labels(n, 2, generator)
    first = generator.integers(0, 2, n)
    corners = np.column_stack([first, first ^ y]).astype(np.float64)
    return _with_noise(corners, noise, generator), y


def make_noisy_sine(n: int = 200, noise: float = 0.1, seed: Seed = None) -> tuple[Floats, Floats]:
    """Draw a sine with noise, for regression: y = sin(2πx) + noise.

    Parameters
    ----------
    n : int, default=200
        Samples, at least 1.
    noise : float, default=0.1
        Standard deviation that is added to y.
    seed : int or numpy.random.Generator, optional
        Where random numbers come from.

    Returns
    -------
    X : numpy.ndarray of float32, shape (n, 1)
        Points from −1 to 1, in order.
    y : numpy.ndarray of float32, shape (n, 1)
        Values.

    Raises
    ------
    TypeError, ValueError
        If an argument is not valid.
    """
    n = check_integer("n", n, minimum=1)
    generator = as_generator(seed)
    X = np.sort(generator.uniform(-1, 1, (n, 1)), axis=0)
    return X.astype(np.float32), _with_noise(np.sin(2 * np.pi * X), noise, generator)


def _shuffled_labels(n: int, n_classes: int, generator: np.random.Generator) -> Labels:
    """Return labels in random order, as many of each class as n allows."""
    n = check_integer("n", n, minimum=n_classes)
    return generator.permutation(np.arange(n) % n_classes)


def _with_noise(points: NDArray, noise: float, generator: np.random.Generator) -> Floats:
    """Add normal noise of a standard deviation."""
    noise = check_real("noise", noise, "[0, inf)")
    return (points + noise * generator.normal(size=points.shape)).astype(np.float32)

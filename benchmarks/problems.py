"""What is measured: networks, batches and optimizers, the same for every competitor."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

__all__ = ["Problem"]


@dataclass(frozen=True)
class Problem:
    """A network with data, to be trained by steps on mini-batches or run forward.

    Parameters
    ----------
    sizes : tuple of int
        Features, hidden units and outputs.
    batch_size : int
        Samples of a step, or of a forward pass.
    activation : {"relu", "tanh"}, default="relu"
        Activation of the hidden layers; the last is the identity.
    loss : {"cross_entropy", "quadratic"}, default="cross_entropy"
        Loss; labels are drawn for the first, values for the second.
    optimizer : {"sgd", "adam"} or None, default="adam"
        Update rule; None runs forward only.
    dtype : {"float32", "float64"}, default="float32"
        Type of all numbers.
    n_batches : int, default=8
        Mini-batches, visited in order again and again.
    single : bool, default=False
        Whether each batch is a single sample, given as a vector.
    gradient : bool, default=False
        Whether to compute the gradient only, of a single sample.
    """

    sizes: tuple[int, ...]
    batch_size: int
    activation: str = "relu"
    loss: str = "cross_entropy"
    optimizer: str | None = "adam"
    dtype: str = "float32"
    n_batches: int = 8
    single: bool = False
    gradient: bool = False

    @property
    def name(self) -> str:
        """One line that tells the problem from others."""
        job = "forward" if self.optimizer is None else f"{self.optimizer} step"
        job = "gradient" if self.gradient else job
        sizes = "-".join(map(str, self.sizes))
        return f"{sizes} {self.activation}, {job}, batch {self.batch_size}, {self.dtype}"

    @property
    def learning_rate(self) -> float:
        """Small enough that hundreds of steps stay comparable between libraries."""
        return 1e-4 if self.optimizer == "adam" else 1e-3

    @property
    def flops(self) -> float:
        """Operations of the matrix products of one step: x·W, δ·Wᵀ above layer 1, xᵀ·δ."""
        weights = [n_in * n_out for n_in, n_out in pairwise(self.sizes)]
        products = sum(weights) if self.optimizer is None else 3 * sum(weights) - weights[0]
        return 2.0 * self.batch_size * products

    def samples(self) -> tuple[np.ndarray, np.ndarray]:
        """Draw the inputs and targets of all batches."""
        rng = np.random.default_rng(0)
        n_samples = self.batch_size * self.n_batches
        x = rng.normal(size=(n_samples, self.sizes[0])).astype(self.dtype)
        if self.loss == "cross_entropy":
            return x, rng.integers(self.sizes[-1], size=n_samples)
        return x, rng.normal(size=(n_samples, self.sizes[-1])).astype(self.dtype)

    def initial_parameters(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Draw W (n_out, n_in) and b (n_out,) of each layer."""
        rng = np.random.default_rng(1)
        return [
            (
                (rng.normal(size=(n_out, n_in)) / np.sqrt(n_in)).astype(self.dtype),
                (rng.normal(size=n_out) / 10).astype(self.dtype),
            )
            for n_in, n_out in pairwise(self.sizes)
        ]

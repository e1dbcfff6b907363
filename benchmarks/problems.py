"""What is measured: networks, batches and optimizers, the same for every competitor."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import sqrt

import numpy as np

from .ceilings import Work

__all__ = ["CONTROL", "CURVE", "DIGITS", "GRADIENTS", "MNIST", "WIDE", "Problem"]

MNIST = (784, 256, 128, 10)
WIDE = (784, 2048, 2048, 10)
CONTROL = (17, 64, 64, 6)
CURVE = (4, 32, 16, 4)
DIGITS = (64, 128, 128, 10)

CHECKED_STEPS = 16

#: Jobs that leave the parameters alone: the gradient in memory, or as its factors.
GRADIENTS = ("gradient", "factored")

#: Numbers that an optimizer remembers of each parameter.
STATE = {"sgd": 0, "adam": 2}


@dataclass(frozen=True)
class Problem:
    """A network with data, to be trained by steps on mini-batches or run forward.

    Parameters
    ----------
    sizes : tuple of int
        Features, hidden units and outputs.
    batch_size : int
        Samples of a step, or of a forward pass.
    job : {"adam", "sgd", "gradient", "forward"}, default="adam"
        A training step with an optimizer, a gradient, stored or as factors, or outputs.
    activation : {"relu", "tanh"}, default="relu"
        Activation of the hidden layers; the last is the identity.
    loss : {"cross_entropy", "quadratic"}, default="cross_entropy"
        Loss; labels are drawn for the first, values for the second.
    dtype : {"float32", "float64"}, default="float32"
        Type of all numbers.
    n_batches : int, default=8
        Mini-batches, visited in order again and again.
    single : bool, default=False
        Whether each batch is a single sample, given as a vector.
    digits : bool, default=False
        Whether the samples are the bundled digits instead of random numbers.
    """

    sizes: tuple[int, ...]
    batch_size: int = 1
    job: str = "adam"
    activation: str = "relu"
    loss: str = "cross_entropy"
    dtype: str = "float32"
    n_batches: int = 8
    single: bool = False
    digits: bool = False

    def __str__(self) -> str:
        job = self.job if self.job in {"forward", *GRADIENTS} else f"{self.job} step"
        batch = "one sample" if self.single else f"batch {self.batch_size}"
        dtype = "" if self.dtype == "float32" else f", {self.dtype}"
        return f"{'-'.join(map(str, self.sizes))} {self.activation}, {job}, {batch}{dtype}"

    @property
    def trains(self) -> bool:
        """Whether steps change the parameters."""
        return self.job in STATE

    @property
    def unit(self) -> int:
        """Steps that cannot be split: training goes through all batches."""
        return self.n_batches if self.trains else 1

    @property
    def checked_steps(self) -> int:
        """Steps after which all must have reached the same network, also the warm-up."""
        return self.unit * max(1, CHECKED_STEPS // self.unit)

    @property
    def learning_rate(self) -> float:
        """Small enough that hundreds of steps stay comparable between libraries."""
        if self.digits:
            return 1e-3
        return 1e-4 if self.job == "adam" else 1e-3

    def work(self, n_threads: int) -> Work:
        """Count the operations and bytes of a step: x·W, δ·Wᵀ above layer 1, xᵀ·δ.

        Weights that a single sample need not meet do not count, whoever reads them.
        """
        n_weights, met = sum(n_in * n_out for n_in, n_out in pairwise(self.sizes)), _met(self)
        itemsize, state, n_met = np.dtype(self.dtype).itemsize, STATE.get(self.job, 0), sum(met)
        n_changed = n_met if self.job == "sgd" else n_weights
        both = 2 * n_met - met[0]  # forward and backward
        step = (1 + state) * n_changed
        passes, reads, writes, kept = {
            "forward": (n_met, n_met, 0, 1),
            "gradient": (both + n_changed, 2 * n_met, n_changed, 2),
            "factored": (both, 2 * n_met, 0, 1),
        }.get(self.job, (both + n_changed, n_met + step, step, 1 + state))
        data = self.batch_size * self.sizes[0]
        return Work(
            flops=2.0 * self.batch_size * passes,
            read=itemsize * (reads + data),
            written=itemsize * (writes + self.batch_size * self.sizes[-1]),
            footprint=itemsize * (kept * n_weights + self.n_batches * data),
            dtype=self.dtype,
            n_threads=n_threads,
        )

    def held_bytes(self) -> dict[str, float]:
        """Count the bytes that training must hold at once: by what they are."""
        itemsize, targets = np.dtype(self.dtype).itemsize, self.sizes[-1]
        n_parameters = sum((n_in + 1) * n_out for n_in, n_out in pairwise(self.sizes))
        n_samples = self.batch_size * self.n_batches
        label = np.dtype(np.int64).itemsize if self.loss == "cross_entropy" else itemsize * targets
        return {
            "data": n_samples * (itemsize * self.sizes[0] + label),
            "parameters": itemsize * n_parameters,
            "optimizer state": itemsize * n_parameters * STATE.get(self.job, 0),
            "activations of a batch": itemsize * self.batch_size * sum(self.sizes[1:]),
        }

    def samples(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the inputs and targets of all batches."""
        n_samples = self.batch_size * self.n_batches
        if self.digits:
            from fastmlp.datasets import load_digits

            x, y, _, _ = load_digits()
            return np.ascontiguousarray(x[:n_samples], self.dtype), y[:n_samples]
        rng = np.random.default_rng(0)
        x = rng.standard_normal((n_samples, self.sizes[0]), self.dtype)
        if self.loss == "cross_entropy":
            return x, rng.integers(self.sizes[-1], size=n_samples)
        return x, rng.standard_normal((n_samples, self.sizes[-1]), self.dtype)

    def batches(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the inputs and targets of each batch, vectors and labels for single samples."""
        return self.split(*self.samples())

    def split(self, x: np.ndarray, y: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the samples' views by batch."""
        if self.single:
            return list(zip(x, y, strict=True))
        shape = (self.n_batches, self.batch_size, -1)
        targets = y.reshape(shape[:2] + y.shape[1:])
        return list(zip(x.reshape(shape), targets, strict=True))

    def initial_parameters(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Draw W (n_out, n_in) and b (n_out,) of each layer."""
        rng, parameters = np.random.default_rng(1), []
        for n_in, n_out in pairwise(self.sizes):
            weight = rng.standard_normal((n_out, n_in), self.dtype)
            weight /= sqrt(n_in)
            parameters.append((weight, rng.standard_normal(n_out, self.dtype) / 10))
        return parameters


@cache
def _met(problem: Problem) -> list[float]:
    """Count the weights of each layer that a batch meets: of single samples, on the average.

    Behind ReLU a sample leaves out those whose input is 0: forward, backward, and in the
    updates of plain gradient descent.
    """
    shares = [1.0] * (len(problem.sizes) - 1)
    if problem.single and problem.activation == "relu":
        x, _ = problem.samples()
        for index, (weight, bias) in enumerate(problem.initial_parameters()):
            shares[index] = np.count_nonzero(x) / x.size
            x = np.maximum(x @ weight.T + bias, 0)
    return [
        share * n_in * n_out
        for share, (n_in, n_out) in zip(shares, pairwise(problem.sizes), strict=True)
    ]

"""Search a learning rate: train while the rate grows, and see where the loss falls."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._validation import (
    Seed,
    as_generator,
    check_integer,
    check_real,
    real_array,
)
from .losses import Loss
from .network import MLP, check_batch
from .optimizers import Adam, Optimizer, check_optimizer
from .schedules import Exponential

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["LearningRateRange", "find_learning_rate"]

#: β of the moving average of losses, m ← βm + (1 − β)L: a memory of about 10 steps.
MEMORY = 0.9

#: Steps by which the smoothed loss is behind: β/(1 − β) by the average, and 1 because a
#: step's loss is that before its update.
LAG = round(MEMORY / (1 - MEMORY)) + 1

#: Multiple of the lowest smoothed loss at which training has diverged.
DIVERGED = 4.0


@dataclass(frozen=True, eq=False)
class LearningRateRange:
    """Losses of a range test; prints its suggestion.

    Parameters
    ----------
    rates : numpy.ndarray of shape (n_steps,)
        Learning rate of each step.
    losses : numpy.ndarray of shape (n_steps,)
        Loss of each batch before its update.
    smoothed : numpy.ndarray of shape (n_steps,)
        Moving average of the losses, corrected for its start: some 10 steps behind.
    diverged : bool
        Whether the test ended early because training diverged.
    """

    rates: NDArray[np.float64]
    losses: NDArray[np.float64]
    smoothed: NDArray[np.float64]
    diverged: bool

    @property
    def steepest(self) -> float | None:
        """Middle of the decade of rates over which the loss falls fastest.

        Of the least-squares lines through the losses of each decade below the minimum, by
        the logarithm of the rate, the one that falls most; None if none falls.
        """
        stop = self._minimum + 1
        per_decade = 1 / np.log10(self.rates[1] / self.rates[0])
        width = min(max(round(per_decade), 2), stop)
        offsets = np.arange(width) - (width - 1) / 2
        slopes = np.correlate(self.losses[:stop], offsets, "valid")
        start = int(slopes.argmin())
        if not slopes[start] < 0:
            return None
        return float(np.sqrt(self.rates[start] * self.rates[start + width - 1]))

    @property
    def minimum_tenth(self) -> float | None:
        """A tenth of the rate with the lowest smoothed loss; None if the loss never falls."""
        return float(self.rates[self._minimum] / 10) if self._minimum else None

    @property
    def suggestion(self) -> float | None:
        """The larger one of `steepest` and `minimum_tenth`; None if the loss never falls.

        On the bundled data both stay below the rate with which 15 epochs end lowest, by SGD,
        with momentum and by Adam, so the larger one is closer to it.
        """
        return max(filter(None, (self.steepest, self.minimum_tenth)), default=None)

    @property
    def _minimum(self) -> int:
        """Step whose update led to the lowest smoothed loss."""
        return max(int(np.nanargmin(self.smoothed)) - LAG, 0)

    def __repr__(self) -> str:
        ended = "until training diverged" if self.diverged else "without diverging"
        text = (
            f"LearningRateRange: {len(self.rates)} steps from {self.rates[0]:.2g} to "
            f"{self.rates[-1]:.2g}, {ended}\n"
        )
        if self.suggestion is None:
            return text + "no suggestion: the loss never falls; try lower rates or more steps"
        numbers = {
            "suggestion": self.suggestion,
            "steepest descent": self.steepest,
            "minimum / 10": self.minimum_tenth,
        }
        return text + "\n".join(
            f"{name:16}  {'none' if rate is None else f'{rate:.2g}'}"
            for name, rate in numbers.items()
        )

    def plot(self, ax: Axes | None = None) -> Any:
        """Draw the losses by rate, with the suggestion.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; the default is a new figure.

        Returns
        -------
        matplotlib.axes.Axes
            Where it was drawn.

        Raises
        ------
        ImportError
            If matplotlib is needed and not installed.
        """
        if ax is None:
            try:
                from matplotlib import pyplot
            except ImportError as error:
                raise ImportError('plot needs matplotlib: `pip install "fastmlp[plot]"`') from error
            ax = pyplot.figure().add_subplot()
        ax.plot(self.rates, self.losses, ".", alpha=0.3, label="loss of a batch")
        ax.plot(self.rates, self.smoothed, label="smoothed, about 10 steps behind")
        if self.suggestion is not None:
            label = f"suggestion {self.suggestion:.2g}"
            ax.axvline(self.suggestion, color="black", linestyle="--", label=label)
        # Divergence would press all before it into a line.
        low, high = np.nanmin(self.smoothed), np.nanmax(self.smoothed[: self._minimum + LAG + 1])
        if low < high:
            ax.set_ylim(1.2 * low - 0.2 * high, 2 * high - low)
        ax.set(xscale="log", xlabel="learning rate", ylabel="loss")
        ax.legend()
        return ax


def find_learning_rate(
    net: MLP,
    X: ArrayLike,
    y: ArrayLike,
    loss: str | Loss = "cross_entropy",
    optimizer: Optimizer | None = None,
    *,
    lowest: float = 1e-6,
    highest: float = 10.0,
    n_steps: int = 200,
    batch_size: int = 32,
    seed: Seed = None,
) -> LearningRateRange:
    """Suggest a learning rate by a range test.

    A copy of the network is trained on mini-batches while the rate grows exponentially
    from step to step, until the smoothed loss is 4 times its minimum. Where the rate is
    too low the loss stays, where it suits it falls, where it is too high it rises. Smith,
    Cyclical learning rates for training neural networks, WACV 2017, section 3.3.

    Parameters
    ----------
    net : MLP
        The network, as it is to be trained; it is not changed.
    X : array_like of shape (n_samples, n_in)
        Samples.
    y : array_like
        Targets, as for :meth:`MLP.loss`.
    loss : str or Loss, default="cross_entropy"
        The loss, as for :meth:`MLP.loss`.
    optimizer : Optimizer, optional
        The one to find a rate for, by default ``Adam()``; a copy of it without its state
        is used, it is not changed.
    lowest : float, default=1e-6
        Rate of the first step.
    highest : float, default=10.0
        Rate of the last step, above `lowest`.
    n_steps : int, default=200
        Steps from one to the other, at least 2.
    batch_size : int, default=32
        Samples of a step; all if there are fewer.
    seed : int or numpy.random.Generator, optional
        Where the order of samples comes from.

    Returns
    -------
    LearningRateRange
        Rates, losses, and the `suggestion`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not valid or the data are not finite.
    """
    lowest = check_real("lowest", lowest, "(0, inf)")
    highest = check_real("highest", highest, f"({lowest!r}, inf)")
    n_steps = check_integer("n_steps", n_steps, minimum=2)
    batch_size = check_integer("batch_size", batch_size, minimum=1)
    X, y, objective = _checked_samples(net, X, y, loss)
    batches = _batches(len(X), batch_size, as_generator(seed))
    net = copy.deepcopy(net)
    optimizer = copy.copy(check_optimizer(Adam() if optimizer is None else optimizer))
    rates = Exponential(lowest, highest / lowest, n_steps - 1)(np.arange(n_steps))
    losses: list[float] = []
    smoothed: list[float] = []
    diverged, average = False, 0.0
    for rate, rows in zip(rates.tolist(), batches, strict=False):
        optimizer.learning_rate = rate
        losses.append(net.train_step(X[rows], y[rows], objective, optimizer=optimizer))
        average = MEMORY * average + (1 - MEMORY) * losses[-1]
        smoothed.append(average / (1 - MEMORY ** len(losses)))
        diverged = not smoothed[-1] <= DIVERGED * min(smoothed)  # true also for NaN
        if diverged:
            break
    return LearningRateRange(rates[: len(losses)], np.array(losses), np.array(smoothed), diverged)


def _checked_samples(
    net: MLP, X: ArrayLike, y: ArrayLike, loss: str | Loss
) -> tuple[NDArray[Any], NDArray[Any], Loss]:
    """Return samples and targets as they came, and the loss fitted to them, if all is finite."""
    X, y = real_array("X", X), real_array("y", y)
    if X.ndim != 2:
        raise ValueError(f"X must have shape (n_samples, {net.n_in}), got {X.shape}")
    objective, _ = check_batch(net, X, y, loss, finite=True)
    first = net.loss(X[:1], y[:1], objective)
    if not np.isfinite(first):
        raise ValueError(
            f"net must have a finite loss to begin with, but that of the first sample is {first}"
        )
    return X, y, objective


def _batches(
    n_samples: int, batch_size: int, generator: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of full batches, endlessly, each epoch in a new order."""
    batch_size = min(batch_size, n_samples)
    while True:
        order = generator.permutation(n_samples)
        for stop in range(batch_size, n_samples + 1, batch_size):
            yield order[stop - batch_size : stop]

"""Callbacks: what ``fit`` calls before, during and after training."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np

from ._validation import as_list, check_integer, check_real
from .history import History
from .metrics import DIRECTIONS
from .network import MLP
from .optimizers import Optimizer, check_optimizer
from .parameters import Parameters

__all__ = [
    "Callback",
    "EarlyStopping",
    "EpochFunction",
    "ReduceOnPlateau",
    "as_callbacks",
    "progress",
]

#: ``f(net, epoch, history)``, called after each epoch; a true result stops training.
EpochFunction = Callable[[MLP, int, History], Any]


class Callback:
    """Base of callbacks; override what is needed."""

    def on_train_begin(self, net: MLP, history: History) -> None:
        """Act before the first epoch.

        Parameters
        ----------
        net : MLP
            The network.
        history : History
            Still empty; its `names` are known.
        """

    def on_epoch_end(self, net: MLP, epoch: int, history: History) -> Any:
        """Act after an epoch.

        Parameters
        ----------
        net : MLP
            The network.
        epoch : int
            Number of the epoch, from 0.
        history : History
            The epoch's values are its last ones.

        Returns
        -------
        object
            Something true to stop training.
        """

    def on_train_end(self, net: MLP, history: History) -> None:
        """Act after the last epoch, also when training was interrupted.

        Parameters
        ----------
        net : MLP
            The network.
        history : History
            All epochs.
        """


class Monitor(Callback):
    """What callbacks share that watch whether a value of the history improves.

    Parameters
    ----------
    monitor : str
        Name of the value in the history.
    min_delta : float
        Smallest change that counts as an improvement.
    mode : {"min", "max"} or None
        Whether small or large values are good; known for losses and for metrics by name.

    Raises
    ------
    TypeError, ValueError
        If an argument is not valid.
    """

    def __init__(self, monitor: str, min_delta: float, mode: Literal["min", "max"] | None) -> None:
        known = {"loss": "min"} | DIRECTIONS
        known |= {f"val_{name}": direction for name, direction in known.items()}
        direction = mode or known.get(monitor)
        if direction not in ("min", "max"):
            raise ValueError(f"mode must be 'min' or 'max' for monitor={monitor!r}, got {mode!r}")
        self.monitor = monitor
        self.min_delta = check_real("min_delta", min_delta, "[0, inf)")
        self._sign = 1 if direction == "min" else -1
        self._best: float | None = None

    def on_train_begin(self, net: MLP, history: History) -> None:
        """Check that the value will be there, and start afresh.

        Parameters
        ----------
        net : MLP
            The network.
        history : History
            Still empty.
        """
        if self.monitor not in history.names:
            raise ValueError(
                f"{type(self).__name__}: monitor must be one of {', '.join(history.names)}, got "
                f"{self.monitor!r} (values that start with 'val_' need validation_data)"
            )
        self._best = None

    def _improves(self, history: History) -> bool:
        """Return whether the last epoch is the best so far; NaN is worst, the first is best."""
        value = self._sign * history[self.monitor][-1]
        value = np.inf if np.isnan(value) else value
        if self._best is not None and not value < self._best - self.min_delta:
            return False
        self._best = value
        return True


class EarlyStopping(Monitor):
    """Stop when a value has not improved for a number of epochs.

    Parameters
    ----------
    monitor : str, default="val_loss"
        Name of the value in the history.
    patience : int, default=5
        Epochs without improvement after which training stops, at least 1.
    min_delta : float, default=0.0
        Smallest change that counts as an improvement.
    restore_best : bool, default=True
        Whether to put the parameters of the best epoch back at the end.
    mode : {"min", "max"}, optional
        Whether small or large values are good; known for losses and for metrics by name.

    Attributes
    ----------
    best_epoch : int or None
        Number of the best epoch of the last training.

    Raises
    ------
    TypeError, ValueError
        If an argument is not valid; at the start of training if the history will not
        have the value.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 5,
        min_delta: float = 0.0,
        restore_best: bool = True,
        mode: Literal["min", "max"] | None = None,
    ) -> None:
        super().__init__(monitor, min_delta, mode)
        self.patience = check_integer("patience", patience, minimum=1)
        self.restore_best = restore_best
        self.best_epoch: int | None = None
        self._best_parameters: Parameters | None = None

    def on_train_begin(self, net: MLP, history: History) -> None:
        """Check that the value will be there, and start afresh.

        Parameters
        ----------
        net : MLP
            The network.
        history : History
            Still empty.
        """
        super().on_train_begin(net, history)
        self.best_epoch = self._best_parameters = None

    def on_epoch_end(self, net: MLP, epoch: int, history: History) -> bool:
        """Compare with the best epoch.

        Parameters
        ----------
        net : MLP
            The network.
        epoch : int
            Number of the epoch.
        history : History
            The epoch's values are its last ones.

        Returns
        -------
        bool
            Whether to stop.
        """
        if self._improves(history):
            self.best_epoch = epoch
            if self.restore_best:
                self._best_parameters = copy.copy(net.parameters)
        return self.best_epoch is not None and epoch - self.best_epoch >= self.patience

    def on_train_end(self, net: MLP, history: History) -> None:
        """Put the best parameters back.

        Parameters
        ----------
        net : MLP
            The network.
        history : History
            All epochs.
        """
        if self._best_parameters is not None:
            net.parameters.assign(self._best_parameters)
            self._best_parameters = None


class ReduceOnPlateau(Monitor):
    """Lower the learning rate when a value has not improved for a number of epochs.

    PyTorch's ``ReduceLROnPlateau`` does the same with ``threshold_mode="abs"`` and a
    patience that is one less: here, as in :class:`EarlyStopping`, the rate is lowered
    after `patience` epochs without improvement, there after one more.

    Parameters
    ----------
    optimizer : Optimizer
        The one that is given to ``fit``; its learning rate is a number, not a schedule.
    monitor : str, default="val_loss"
        Name of the value in the history.
    factor : float, default=0.1
        What the rate is multiplied by, in (0, 1).
    patience : int, default=10
        Epochs without improvement after which the rate is lowered, at least 1.
    min_delta : float, default=0.0
        Smallest change that counts as an improvement.
    cooldown : int, default=0
        Epochs after a reduction that do not count as epochs without improvement.
    min_learning_rate : float, default=0.0
        The rate is not lowered below, at least 0; to 0 itself it never is.
    mode : {"min", "max"}, optional
        Whether small or large values are good; known for losses and for metrics by name.

    Attributes
    ----------
    reductions : list of int
        Epochs of the last training after which the rate was lowered.

    Raises
    ------
    TypeError, ValueError
        If an argument is not valid; at the start of training if the history will not
        have the value or the learning rate is a schedule; after the first epoch if
        another optimizer trained the network.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        monitor: str = "val_loss",
        *,
        factor: float = 0.1,
        patience: int = 10,
        min_delta: float = 0.0,
        cooldown: int = 0,
        min_learning_rate: float = 0.0,
        mode: Literal["min", "max"] | None = None,
    ) -> None:
        super().__init__(monitor, min_delta, mode)
        self.optimizer: Any = check_optimizer(optimizer)  # each has a learning_rate
        self.factor = check_real("factor", factor, "(0, 1)")
        self.patience = check_integer("patience", patience, minimum=1)
        self.cooldown = check_integer("cooldown", cooldown, minimum=0)
        self.min_learning_rate = check_real("min_learning_rate", min_learning_rate, "[0, inf)")
        self.reductions: list[int] = []

    def on_train_begin(self, net: MLP, history: History) -> None:
        """Check that the value will be there and can be acted on, and start afresh.

        Parameters
        ----------
        net : MLP
            The network.
        history : History
            Still empty.
        """
        super().on_train_begin(net, history)
        rate = self.optimizer.learning_rate
        if callable(rate):
            raise ValueError(
                f"ReduceOnPlateau: the learning rate must be a number to be lowered, got {rate!r}"
            )
        self.reductions = []
        self._n_bad = self._n_cooling = 0
        self._step_count = self.optimizer.step_count

    def on_epoch_end(self, net: MLP, epoch: int, history: History) -> None:
        """Lower the rate if it is time.

        Parameters
        ----------
        net : MLP
            The network.
        epoch : int
            Number of the epoch.
        history : History
            The epoch's values are its last ones.
        """
        if self.optimizer.step_count == self._step_count:
            raise ValueError(
                "ReduceOnPlateau: optimizer must be the one that trains the network, but "
                f"{self.optimizer!r} has made no step"
            )
        self._n_bad = 0 if self._improves(history) or self._n_cooling else self._n_bad + 1
        self._n_cooling = max(self._n_cooling - 1, 0)
        if self._n_bad < self.patience:
            return
        self._n_bad, self._n_cooling = 0, self.cooldown
        rate = self.optimizer.learning_rate
        lower = max(self.factor * rate, self.min_learning_rate)
        if 0 < lower < rate:  # a tiny rate times the factor may round to 0
            self.optimizer.learning_rate = lower
            self.reductions.append(epoch)


class FunctionCallback(Callback):
    """Call a function after each epoch.

    Parameters
    ----------
    function : callable
        ``f(net, epoch, history)``.
    """

    def __init__(self, function: EpochFunction) -> None:
        self.function = function

    def on_epoch_end(self, net: MLP, epoch: int, history: History) -> Any:
        """Call the function.

        Parameters
        ----------
        net : MLP
            The network.
        epoch : int
            Number of the epoch.
        history : History
            The epoch's values are its last ones.

        Returns
        -------
        object
            What the function returns.
        """
        return self.function(net, epoch, history)


class ProgressBar(Callback):
    """Show a progress bar over epochs on standard error.

    Parameters
    ----------
    epochs : int
        Epochs that are planned.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_begin(self, net: MLP, history: History) -> None:
        """Open the bar.

        Parameters
        ----------
        net : MLP
            The network.
        history : History
            Still empty.
        """
        from tqdm import tqdm

        self._bar = tqdm(total=self.epochs, unit="epoch", file=sys.stderr)

    def on_epoch_end(self, net: MLP, epoch: int, history: History) -> None:
        """Advance the bar.

        Parameters
        ----------
        net : MLP
            The network.
        epoch : int
            Number of the epoch.
        history : History
            The epoch's values are its last ones.
        """
        self._bar.set_postfix_str(_summary(history), refresh=False)
        self._bar.update()

    def on_train_end(self, net: MLP, history: History) -> None:
        """Close the bar.

        Parameters
        ----------
        net : MLP
            The network.
        history : History
            All epochs.
        """
        self._bar.close()


def _write_line(net: MLP, epoch: int, history: History) -> None:
    """Write an epoch's values to standard error."""
    seconds = history.seconds[-1]
    sys.stderr.write(f"epoch {epoch}: {_summary(history)}, seconds={seconds:.3g}\n")


def _summary(history: History) -> str:
    values = history.last()
    return ", ".join(f"{name}={values[name]:.4g}" for name in values if name != "seconds")


def progress(verbose: int, epochs: int) -> list[Callback]:
    """Return what shows the progress of training.

    Parameters
    ----------
    verbose : {0, 1, 2}
        Nothing, a progress bar, or a line for each epoch.
    epochs : int
        Epochs that are planned.

    Returns
    -------
    list of Callback
        One, or none.

    Raises
    ------
    ValueError
        If `verbose` is another value.
    """
    if verbose not in (0, 1, 2):
        raise ValueError(f"verbose must be 0, 1 or 2, got {verbose!r}")
    if verbose == 0:
        return []
    return [ProgressBar(epochs) if verbose == 1 else FunctionCallback(_write_line)]


def as_callbacks(callbacks: Iterable[Callback | EpochFunction]) -> list[Callback]:
    """Return callbacks, with functions made into ones.

    Parameters
    ----------
    callbacks : iterable of Callback or callable
        What the user gave.

    Returns
    -------
    list of Callback
        In the same order.

    Raises
    ------
    TypeError
        If they are no list, or one is neither.
    """
    listed = as_list("callbacks", callbacks, "Callback objects or functions")
    return [_as_callback(callback) for callback in listed]


def _as_callback(callback: Callback | EpochFunction) -> Callback:
    if isinstance(callback, Callback):
        return callback
    if isinstance(callback, type) or not callable(callback):
        raise TypeError(f"callbacks must hold Callback objects or functions, got {callback!r}")
    return FunctionCallback(callback)

"""What happened during training, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .text import aligned_table

__all__ = ["RESERVED", "History"]

#: Names of values that are not metrics.
RESERVED = ("loss", "val_loss", "seconds")

ROWS_SHOWN = 4


class History:
    """Values of each epoch; ``history["loss"]`` is a list with one number an epoch.

    Parameters
    ----------
    names : sequence of str
        Names of the values, such as "loss", "val_loss", "val_accuracy" and "seconds".

    Attributes
    ----------
    names : tuple of str
        Names of the values.
    n_epochs : int
        Epochs so far.
    n_steps : int
        Updates so far.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.n_epochs = 0
        self.n_steps = 0
        self._values: dict[str, list[float]] = {name: [] for name in self.names}

    def __getitem__(self, name: str) -> list[float]:
        if name not in self._values:
            raise KeyError(f"history has no {name!r}, only {', '.join(self.names)}")
        return self._values[name]

    def append(self, values: Mapping[str, float], n_steps: int) -> None:
        """Add an epoch.

        Parameters
        ----------
        values : mapping of str to float
            A value for each name.
        n_steps : int
            Updates of the epoch.
        """
        for name in self.names:
            self._values[name].append(float(values[name]))
        self.n_epochs += 1
        self.n_steps += n_steps

    @property
    def loss(self) -> list[float]:
        """Mean loss over the samples of each epoch, each before the update it caused."""
        return self["loss"]

    @property
    def val_loss(self) -> list[float]:
        """Loss of the validation data after each epoch; empty without such data."""
        return self._values.get("val_loss", [])

    @property
    def metrics(self) -> dict[str, list[float]]:
        """Metrics after each epoch by name, those of validation data with ``val_``."""
        return {name: values for name, values in self._values.items() if name not in RESERVED}

    @property
    def seconds(self) -> list[float]:
        """Seconds that the steps of each epoch took, without validation and metrics."""
        return self["seconds"]

    def last(self) -> dict[str, float]:
        """Return the values of the last epoch.

        Returns
        -------
        dict
            A value for each name.
        """
        return {name: values[-1] for name, values in self._values.items() if values}

    def __repr__(self) -> str:
        rows = [
            [str(epoch), *(f"{self[name][epoch]:.4g}" for name in self.names)]
            for epoch in range(self.n_epochs)
        ]
        if self.n_epochs > 2 * ROWS_SHOWN:
            rows[ROWS_SHOWN:-ROWS_SHOWN] = [["…"] * (len(self.names) + 1)]
        table = aligned_table([["epoch", *self.names], *rows], align=">")
        return f"History: {self.n_epochs} epochs, {self.n_steps:,} steps\n{table}"

"""Weights and biases of a network in one block of memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._validation import Array, as_vector
from .kernels import arena, catalogue
from .layers import Dropout, Layer

__all__ = ["Gradient", "Layout", "Parameters", "concatenate"]

CODES = catalogue.CODES
N_IN, N_OUT, WEIGHT = CODES["N_IN"], CODES["N_OUT"], CODES["WEIGHT"]
STRIDE, BIAS = CODES["STRIDE"], CODES["BIAS"]
ROWS, COLUMNS, BIASES = (CODES[name] for name in ("WEIGHT_ROWS", "WEIGHT_COLUMNS", "BIASES"))
KIND, SEED = CODES["KIND"], CODES["SEED"]
SETTINGS = catalogue.SETTING_COLUMNS

#: Kinds that keep a running mean and variance of each unit.
KEEPING = CODES["BATCH_NORM"], CODES["BATCH_NORM_TRAINING"]

#: Weights of more bytes than a core's own cache has are read anew in each pass, in the time of so
#: many operations a byte: 200 GF/s and 29 GB/s of the last cache that cores share, measured.
NEAR_BYTES = 2**21
OPERATIONS_OF_A_BYTE = 7

#: A training step on several threads pays from so many times the work of another call on, if the
#: network has a mebibyte of weights or more, and earlier if it has fewer. Measured, on two cores,
#: with Adam: 784-256-128-10 at batch 14 (2e7 operations) takes 252 µs with one thread and 272 with
#: two, at batch 28 337 and 296; 17-64-64-6 at batch 256 (9e6) 88 and 76; 64-128-128-10 at batch 64
#: (1e7) 78 and 97, at batch 128 141 and 108.
EXCHANGING = 4.0
EXCHANGED_BYTES = 2**20

Views = tuple[NDArray[Any], ...]


def concatenate(weights: Iterable[Array], biases: Iterable[Array]) -> Array:
    """Copy arrays of each layer into one vector.

    Parameters
    ----------
    weights : iterable of numpy.ndarray of shape (n_out, n_in)
        One for each layer.
    biases : iterable of numpy.ndarray of shape (n_out,)
        One for each layer.

    Returns
    -------
    numpy.ndarray of shape (n_parameters,)
        W₁ (n_out × n_in, row-major), b₁, W₂, b₂ and so on.
    """
    pairs = zip(weights, biases, strict=True)
    return np.concatenate([part.ravel() for pair in pairs for part in pair])


@dataclass(frozen=True, eq=False)
class Layout:
    """Where a network's parameters lie in memory, and what kernels know of its layers.

    Parameters
    ----------
    training_table : numpy.ndarray of int64, shape (n_layers, 12)
        The layer table of the network in training, see
        :func:`fastmlp.kernels.arena.layer_table`.
    training_settings : numpy.ndarray of float64, shape (n_layers, 6)
        Its settings, see :data:`fastmlp.kernels.catalogue.SETTING_COLUMNS`.
    table : numpy.ndarray of int64, shape (n_used, 12)
        The layer table of the network in use: the same array if nothing differs. There
        dropout does nothing, and is left out.
    settings : numpy.ndarray of float64, shape (n_used, 6)
        Its settings.
    n_elements : int
        Length of an arena, padding included.
    dtype : numpy.dtype
        Type of an element.
    """

    training_table: NDArray[np.int64]
    training_settings: NDArray[np.float64]
    table: NDArray[np.int64]
    settings: NDArray[np.float64]
    n_elements: int
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, layers: Sequence[Layer], dtype: np.dtype[Any]) -> Layout:
        """Lay out the parameters of some layers.

        Parameters
        ----------
        layers : sequence of Layer
            From input to output.
        dtype : numpy.dtype
            Type of an element.

        Returns
        -------
        Layout
            The layers one after the other.
        """
        (in_training, n_elements), (in_use, _) = (
            arena.layer_table([layer.shape(training) for layer in layers], dtype.itemsize)
            for training in (True, False)
        )
        settings = np.array(
            [[layer.settings().get(name, 0.0) for name in SETTINGS] for layer in layers]
        )
        if np.array_equal(in_training, in_use):
            return cls(in_training, settings, in_training, settings, n_elements, dtype)
        used = [not isinstance(layer, Dropout) for layer in layers]
        return cls(in_training, settings, in_use[used], settings[used], n_elements, dtype)

    def weight_views(self, elements: NDArray[Any]) -> Views:
        """See an arena's weights.

        Parameters
        ----------
        elements : numpy.ndarray of shape (n_elements,)
            Anything laid out as an arena.

        Returns
        -------
        tuple of numpy.ndarray
            A view for each layer: of a dense one (n_out, n_in), of others (n_out,), or (1,)
            if all units share it, or (0,) if there is none.
        """
        views = []
        for row in self.training_table.tolist():
            if row[KIND] == CODES["DENSE"]:
                rows = elements[row[WEIGHT] : row[BIAS]].reshape(row[ROWS], row[STRIDE])
                views.append(rows[:, : row[COLUMNS]].T)
            else:  # one row or none
                views.append(elements[row[WEIGHT] : row[WEIGHT] + row[ROWS] * row[COLUMNS]])
        return tuple(views)

    def bias_views(self, elements: NDArray[Any]) -> Views:
        """See an arena's biases.

        Parameters
        ----------
        elements : numpy.ndarray of shape (n_elements,)
            Anything laid out as an arena.

        Returns
        -------
        tuple of numpy.ndarray of shape (n_out,) or (0,)
            A view for each layer.
        """
        return tuple(
            elements[row[BIAS] : row[BIAS] + row[BIASES]] for row in self.training_table.tolist()
        )

    def statistics_views(self, elements: NDArray[Any], which: int) -> Views:
        """See an arena's running statistics.

        Parameters
        ----------
        elements : numpy.ndarray of shape (n_elements,)
            An arena.
        which : int
            0 for means, 1 for variances.

        Returns
        -------
        tuple of numpy.ndarray of shape (n_out,) or (0,)
            A view for each layer.
        """
        views = []
        for row in self.training_table.tolist():
            start = row[BIAS] + (1 + which) * row[STRIDE]
            views.append(elements[start : start + (row[N_OUT] if row[KIND] in KEEPING else 0)])
        return tuple(views)

    def unfilled(self) -> Array:
        """Return a new arena for kernels that store all weights and biases of dense layers.

        Returns
        -------
        numpy.ndarray of shape (n_elements,)
            Anything where these are to be stored, 0 elsewhere. Zeros that one thread writes,
            others would have to fetch from its core first.
        """
        elements = arena.aligned_empty(self.n_elements, self.dtype)
        ends = [*self.training_table[1:, WEIGHT].tolist(), self.n_elements]
        for row, end in zip(self.training_table.tolist(), ends, strict=True):
            if row[KIND] == CODES["DENSE"]:
                rows = elements[row[WEIGHT] : end].reshape(row[ROWS] + 1, row[STRIDE])
                rows[:, row[COLUMNS] :] = 0
                rows[-1, row[BIASES] :] = 0
            else:
                elements[row[WEIGHT] : end] = 0
        return elements

    def to_vector(self, elements: NDArray[Any]) -> NDArray[Any]:
        """Copy an arena without its padding.

        Parameters
        ----------
        elements : numpy.ndarray of shape (n_elements,)
            Anything laid out as an arena.

        Returns
        -------
        numpy.ndarray of shape (n_parameters,)
            W₁ (n_out × n_in, row-major), b₁, W₂, b₂ and so on.
        """
        return concatenate(self.weight_views(elements), self.bias_views(elements))

    @cached_property
    def n_parameters(self) -> int:
        """Number of weights and biases."""
        table = self.training_table
        return int((table[:, ROWS] * table[:, COLUMNS] + table[:, BIASES]).sum())

    @cached_property
    def is_dense(self) -> bool:
        """Whether all layers of the network in use are dense."""
        return not self.table[:, KIND].any()

    @cached_property
    def is_random(self) -> bool:
        """Whether training draws masks."""
        return bool((self.training_table[:, KIND] == CODES["DROPOUT"]).any())

    @cached_property
    def is_penalized(self) -> bool:
        """Whether weights add to the loss."""
        return bool(self.table[:, CODES["PENALIZED"]].any())

    @cached_property
    def trains_as_used(self) -> bool:
        """Whether a step needs nothing that the network in use has not."""
        return self.training_table is self.table and not self.is_penalized

    @cached_property
    def meets(self) -> bool:
        """Whether in training a sample's output depends on the others of its batch."""
        return bool((self.training_table[:, KIND] == CODES["BATCH_NORM_TRAINING"]).any())

    def seeded_table(self, seed: int) -> NDArray[np.int64]:
        """Return the layer table of training with a seed for the masks.

        Parameters
        ----------
        seed : int
            Masks of the first step; each further step of a call adds 1.

        Returns
        -------
        numpy.ndarray of int64, shape (n_layers, 12)
            A copy, if there are masks to draw.
        """
        if not self.is_random:
            return self.training_table
        table = self.training_table.copy()
        table[:, SEED] = seed
        return table

    @cached_property
    def work_per_sample(self) -> float:
        """Floating-point operations of a forward pass on one sample."""
        return 2.0 * self.n_parameters

    def work(self, n_samples: int) -> float:
        """Return what a forward pass costs, as threads are chosen by it.

        Parameters
        ----------
        n_samples : int
            Samples of the pass.

        Returns
        -------
        float
            Floating-point operations; for a few samples of a large network as many as would
            take as long as reading its weights.
        """
        return max(n_samples * self.work_per_sample, self._work_of_reading)

    @cached_property
    def _n_bytes(self) -> int:
        return self.n_parameters * self.dtype.itemsize

    @cached_property
    def _work_of_reading(self) -> float:
        return OPERATIONS_OF_A_BYTE * self._n_bytes if self._n_bytes > NEAR_BYTES else 0.0

    @cached_property
    def exchange(self) -> float:
        """How many times the work of another call threads need for a training step.

        They fetch from each other the weights that each has changed.
        """
        return min(EXCHANGING, 1.0 + (EXCHANGING - 1.0) * self._n_bytes / EXCHANGED_BYTES)

    def parts(self, n_samples: int) -> int:
        """Return the parts of a batch that the compiled kernels' threads take in training.

        Parameters
        ----------
        n_samples : int
            Samples of the batch.

        Returns
        -------
        int
            1 if it is taken as a whole, or the network is not narrow.
        """
        table = self.training_table
        if table[:, KIND].any() or self.is_penalized:
            return 1
        return max(1, arena.narrow_parts(table, n_samples))

    @cached_property
    def indices(self) -> NDArray[np.int64]:
        """Place in the arena of each entry of the compact vector."""
        return self.to_vector(np.arange(self.n_elements))


class Parameters:
    """Weights and biases, seen as arrays or as one vector; copies are independent.

    Parameters
    ----------
    layout : Layout
        Of the network.
    elements : numpy.ndarray of shape (n_elements,), optional
        Memory to see as weights and biases; new and zero if left out.

    Attributes
    ----------
    layout : Layout
        Of the network.
    arena : numpy.ndarray of shape (n_elements,)
        The memory, aligned to cache lines; its padding is 0 and must stay 0.
    """

    def __init__(self, layout: Layout, elements: Array | None = None) -> None:
        if elements is None:
            elements = arena.aligned_zeros(layout.n_elements, layout.dtype)
        self.layout = layout
        self.arena = elements

    def __getstate__(self) -> dict[str, Any]:
        return {"layout": self.layout, "views": [view.copy() for view in self._all_views]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A fresh arena: a copied buffer would not start a cache line, nor copied views see it.
        Parameters.__init__(self, state["layout"])
        for view, source in zip(self._all_views, state["views"], strict=True):
            view[...] = source

    @cached_property
    def weights(self) -> Views:
        """Writable view of each layer's weight, of a dense one (n_out, n_in)."""
        return self.layout.weight_views(self.arena)

    @cached_property
    def biases(self) -> Views:
        """Writable view of each layer's b, shape (n_out,)."""
        return self.layout.bias_views(self.arena)

    @cached_property
    def running_means(self) -> Views:
        """Writable view of each layer's running mean."""
        return self.layout.statistics_views(self.arena, 0)

    @cached_property
    def running_variances(self) -> Views:
        """Writable view of each layer's running variance."""
        return self.layout.statistics_views(self.arena, 1)

    @property
    def _all_views(self) -> Views:
        statistics = (*self.running_means, *self.running_variances)
        return (*self.weights, *self.biases, *statistics)

    def assign(self, other: Parameters) -> None:
        """Overwrite all entries and running statistics, in place.

        Parameters
        ----------
        other : Parameters
            Of a network with the same layers, in either dtype.
        """
        for view, source in zip(self._all_views, other._all_views, strict=True):
            view[...] = source

    def to_vector(self) -> NDArray[Any]:
        """Copy all entries into one vector.

        Returns
        -------
        numpy.ndarray of shape (n_parameters,)
            W₁ (n_out × n_in, row-major), b₁, W₂, b₂ and so on.
        """
        return self.layout.to_vector(self.arena)

    def set_vector(self, vector: ArrayLike) -> None:
        """Overwrite all entries, in place.

        Parameters
        ----------
        vector : array_like of shape (n_parameters,)
            In the order of :meth:`to_vector`.

        Raises
        ------
        TypeError, ValueError
            If it does not hold real numbers or the shape does not fit.
        """
        layout, start = self.layout, 0
        entries = as_vector("vector", vector, layout.n_parameters, layout.dtype)
        if np.may_share_memory(entries, self.arena):
            entries = entries.copy()
        for pair in zip(self.weights, self.biases, strict=True):
            for part in pair:
                part[...] = entries[start : start + part.size].reshape(part.shape)
                start += part.size

    def fill(self, value: float) -> None:
        """Set all entries to one value, in place.

        Parameters
        ----------
        value : float
            The value.
        """
        for part in (*self.weights, *self.biases):
            part[...] = value


class Gradient(Parameters):
    """Derivatives of a loss by each weight and bias, laid out as the parameters are.

    Parameters
    ----------
    layout : Layout
        Of the network.
    elements : numpy.ndarray of shape (n_elements,), optional
        Memory to see as derivatives; new and zero if left out.
    """

    def __repr__(self) -> str:
        return f"Gradient({self.layout.n_parameters:,} entries, norm {self.norm():.3g})"

    def norm(self) -> float:
        """Return the Euclidean norm over all weights and biases.

        Returns
        -------
        float
            √Σ (∂L/∂θ)².
        """
        return float(np.linalg.norm(self.to_vector()))

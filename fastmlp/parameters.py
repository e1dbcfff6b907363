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
from .layers import Dense

__all__ = ["Gradient", "Layout", "Parameters", "concatenate"]

N_IN, N_OUT, WEIGHT, STRIDE, BIAS = (
    catalogue.CODES[name] for name in ("N_IN", "N_OUT", "WEIGHT", "STRIDE", "BIAS")
)

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
    table : numpy.ndarray of int64, shape (n_layers, 11)
        The layer table, see :func:`fastmlp.kernels.arena.layer_table`.
    settings : numpy.ndarray of float64, shape (n_layers, 4)
        The table of settings, see :data:`fastmlp.kernels.catalogue.SETTING_COLUMNS`.
    n_elements : int
        Length of an arena, padding included.
    dtype : numpy.dtype
        Type of an element.
    """

    table: NDArray[np.int64]
    settings: NDArray[np.float64]
    n_elements: int
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, layers: Sequence[Dense], dtype: np.dtype[Any]) -> Layout:
        """Lay out the parameters of some layers.

        Parameters
        ----------
        layers : sequence of Dense
            From input to output.
        dtype : numpy.dtype
            Type of an element.

        Returns
        -------
        Layout
            The layers one after the other.
        """
        table, n_elements = arena.layer_table([layer.shape for layer in layers], dtype.itemsize)
        settings = np.array([layer.settings for layer in layers])
        return cls(table, settings, n_elements, dtype)

    def weight_views(self, elements: NDArray[Any]) -> Views:
        """See an arena's weights.

        Parameters
        ----------
        elements : numpy.ndarray of shape (n_elements,)
            Anything laid out as an arena.

        Returns
        -------
        tuple of numpy.ndarray of shape (n_out, n_in)
            A view for each layer.
        """
        return tuple(
            elements[row[WEIGHT] : row[BIAS]].reshape(row[N_IN], row[STRIDE])[:, : row[N_OUT]].T
            for row in self.table.tolist()
        )

    def bias_views(self, elements: NDArray[Any]) -> Views:
        """See an arena's biases.

        Parameters
        ----------
        elements : numpy.ndarray of shape (n_elements,)
            Anything laid out as an arena.

        Returns
        -------
        tuple of numpy.ndarray of shape (n_out,)
            A view for each layer.
        """
        return tuple(elements[row[BIAS] : row[BIAS] + row[N_OUT]] for row in self.table.tolist())

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
        return int(((self.table[:, N_IN] + 1) * self.table[:, N_OUT]).sum())

    @cached_property
    def work_per_sample(self) -> float:
        """Floating-point operations of a forward pass on one sample."""
        return 2.0 * self.n_parameters

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
        return {"layout": self.layout, "vector": self.to_vector()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A fresh arena: a copied buffer would not start a cache line, nor copied views see it.
        Parameters.__init__(self, state["layout"])
        self.set_vector(state["vector"])

    @cached_property
    def weights(self) -> Views:
        """Writable view of each layer's W, shape (n_out, n_in)."""
        return self.layout.weight_views(self.arena)

    @cached_property
    def biases(self) -> Views:
        """Writable view of each layer's b, shape (n_out,)."""
        return self.layout.bias_views(self.arena)

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

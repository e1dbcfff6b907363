"""The gradient of a few samples as the factors that it is the product of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np

from ._validation import Array
from .backends import current_kernels, threads_for
from .kernels import arena, catalogue
from .parameters import N_IN, N_OUT, Layout, Views, concatenate

__all__ = ["FactoredGradient"]


class FactoredGradient:
    """The gradient of a mean loss, kept as the factors δ and a of each layer.

    ∂L/∂W of a layer is Σᵢ δᵢ aᵢᵀ, the sum over the samples, where a are the layer's inputs.
    For few samples the factors are much smaller than the product, so this gradient costs about
    one pass forward and one back, without the writing of as many numbers as there are weights.
    `weights` and `biases` are formed when they are asked for, and kept.

    Parameters
    ----------
    layout : Layout
        Of the network.
    inputs : numpy.ndarray of shape (n_samples, Σ n_in)
        a of every layer, side by side.
    deltas : numpy.ndarray of shape (n_samples, Σ n_out)
        δ of every layer, side by side.

    Attributes
    ----------
    layout : Layout
        Of the network.
    """

    def __init__(self, layout: Layout, inputs: Array, deltas: Array) -> None:
        self.layout = layout
        self._inputs = inputs
        self._deltas = deltas

    def __repr__(self) -> str:
        n_samples, n_parameters = len(self._inputs), self.layout.n_parameters
        return f"FactoredGradient({n_parameters:,} entries, of {n_samples} samples)"

    @cached_property
    def inputs(self) -> Views:
        """Inputs a of each layer, shape (n_samples, n_in): x, and the outputs of the others."""
        return _side_by_side(self._inputs, self.layout.table[:, N_IN].tolist())

    @cached_property
    def deltas(self) -> Views:
        """Derivatives δ by each layer's z, shape (n_samples, n_out), their share of the mean in."""
        return _side_by_side(self._deltas, self.layout.table[:, N_OUT].tolist())

    @cached_property
    def weights(self) -> Sequence[Array]:
        """Derivatives by each layer's W, shape (n_out, n_in): Σᵢ δᵢ aᵢᵀ, formed when taken."""
        return _Products(self.inputs, self.deltas)

    @cached_property
    def biases(self) -> Views:
        """Derivatives by each layer's b, shape (n_out,): Σᵢ δᵢ."""
        sizes = self.layout.table[:, catalogue.CODES["BIASES"]].tolist()
        return tuple(
            _product(delta[:, :0], delta)[-1, :n]
            for delta, n in zip(self.deltas, sizes, strict=True)
        )

    def to_vector(self) -> Array:
        """Form all entries and copy them into one vector.

        Returns
        -------
        numpy.ndarray of shape (n_parameters,)
            ∂L/∂W₁ (n_out × n_in, row-major), ∂L/∂b₁, ∂L/∂W₂, ∂L/∂b₂ and so on.
        """
        return concatenate(self.weights, self.biases)

    def norm(self) -> float:
        """Return the Euclidean norm over all weights and biases.

        Returns
        -------
        float
            Of one sample from the factors alone, of several from the entries.
        """
        if len(self._inputs) == 1:
            return float(self.sample_norms()[0])
        return float(np.linalg.norm(self.to_vector()))

    def sample_norms(self) -> Array:
        """Return the norm of each sample's part of the gradient, from the factors alone.

        √Σ ‖δᵢ‖² (‖aᵢ‖² + 1), summed over the layers (Goodfellow, Efficient per-example gradient
        computations, 2015, arXiv:1510.01799). Where samples have equal weights, n_samples times
        this is what :meth:`fastmlp.MLP.gradient_norms` gives.

        Returns
        -------
        numpy.ndarray of shape (n_samples,)
            A norm for each sample.
        """
        out = np.empty(len(self._inputs), self._inputs.dtype)
        current_kernels().factor_norms(self.layout.table, self._inputs, self._deltas, out)
        return out


class _Products(Sequence[Any]):
    """The weights' derivatives of all layers, each formed when it is first taken."""

    def __init__(self, inputs: Views, deltas: Views) -> None:
        self._inputs, self._deltas = inputs, deltas
        self._known: dict[int, Array] = {}

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return tuple(self[layer] for layer in range(len(self))[index])
        layer = range(len(self))[index]
        if layer not in self._known:
            self._known[layer] = _product(self._inputs[layer], self._deltas[layer])[:-1].T
        return self._known[layer]

    def __iter__(self) -> Iterator[Array]:
        return (self[layer] for layer in range(len(self)))


def _side_by_side(matrix: Array, widths: Sequence[int]) -> Views:
    """See parts of a matrix whose columns lie side by side."""
    ends = list(accumulate(widths))
    return tuple(matrix[:, end - n : end] for n, end in zip(widths, ends, strict=True))


def _product(a: Array, delta: Array) -> Array:
    """Return Σᵢ aᵢ δᵢᵀ, stored as a weight is, and Σᵢ δᵢ in one more row."""
    n_samples, (n_in, n_out) = len(a), (a.shape[1], delta.shape[1])
    stride = arena.row_stride(n_out, a.itemsize)
    out = arena.aligned_zeros((n_in + 1) * stride, a.dtype).reshape(n_in + 1, stride)[:, :n_out]
    n_threads = threads_for(2 * n_samples * out.size)
    workspace = arena.aligned_zeros(arena.panel_size(n_samples, n_threads), a.dtype)
    current_kernels().dense_backward_weight(a, delta, out[:-1], out[-1], workspace, n_threads)
    return out

"""Memory that kernels overwrite, kept from call to call."""

from __future__ import annotations

import threading

from ._validation import Array
from .kernels import arena
from .parameters import Layout

__all__ = ["Workspaces"]

#: A larger workspace, of one huge batch, is not kept.
LARGEST_KEPT = 64 * 2**20


class Workspaces(threading.local):
    """Workspaces of one network: each thread has its own, so calls never share one.

    Parameters
    ----------
    layout : Layout
        Of the network.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._kept: dict[object, tuple[int, int, Array]] = {}
        self._gradient: Array | None = None

    def forward(self, n_rows: int, n_threads: int) -> Array:
        """Return a workspace of ``network_forward``.

        Parameters
        ----------
        n_rows : int
            Samples of the call.
        n_threads : int
            Threads of the call.

        Returns
        -------
        numpy.ndarray
            At least as large as the kernel wants.
        """
        block = arena.row_block(self._layout.table, self._layout.dtype.itemsize)
        return self._at_least("forward", min(n_rows, block), n_threads)

    def training(self, n_rows: int, n_threads: int) -> Array:
        """Return a workspace of the other network kernels.

        Parameters
        ----------
        n_rows : int
            Samples of the largest batch.
        n_threads : int
            Threads of the call.

        Returns
        -------
        numpy.ndarray
            At least as large as the kernel wants.
        """
        return self._at_least("training", n_rows, n_threads)

    def gradient(self) -> Array:
        """Return memory for a gradient, laid out as the parameters are.

        Returns
        -------
        numpy.ndarray of shape (n_elements,)
            Of any content.
        """
        if self._gradient is None:
            self._gradient = arena.aligned_zeros(self._layout.n_elements, self._layout.dtype)
        return self._gradient

    def jacobian(self, n_rows: int, n_threads: int) -> Array:
        """Return a workspace of ``network_jacobian``.

        Parameters
        ----------
        n_rows : int
            Samples of the call.
        n_threads : int
            Threads of the call.

        Returns
        -------
        numpy.ndarray
            At least as large as the kernel wants.
        """
        return self._at_least("jacobian", min(n_rows, arena.ROW_BLOCK), n_threads)

    def sample(self, n_threads: int) -> Array:
        """Return a workspace of ``network_sample_gradients``, for any number of samples.

        Parameters
        ----------
        n_threads : int
            Threads of the call.

        Returns
        -------
        numpy.ndarray
            At least as large as the kernel wants.
        """
        return self._at_least("sample", 1, n_threads)

    def hessian(self, n_rows: int, n_threads: int) -> Array:
        """Return a workspace of ``network_hessian_product``.

        Parameters
        ----------
        n_rows : int
            Samples of the call.
        n_threads : int
            Threads of the call.

        Returns
        -------
        numpy.ndarray
            At least as large as the kernel wants.
        """
        return self._at_least("hessian", n_rows, n_threads)

    def _at_least(self, purpose: str, n_rows: int, n_threads: int) -> Array:
        """Return what is kept for a purpose if it suffices, else something larger."""
        rows, threads, workspace = self._kept.get(purpose, (0, 0, None))
        if workspace is not None and n_rows <= rows and n_threads <= threads:
            return workspace
        size_of = getattr(arena, f"{purpose}_workspace_size")
        layout = self._layout
        # In training a network has all the layers that it has in use, and dropout.
        size = size_of(layout.training_table, n_rows, layout.dtype.itemsize, n_threads)
        workspace = arena.aligned_zeros(size, layout.dtype)
        if workspace.nbytes <= LARGEST_KEPT:
            self._kept[purpose] = n_rows, n_threads, workspace
        return workspace

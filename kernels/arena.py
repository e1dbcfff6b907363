"""Memory of a network: padded rows, the layer table, sizes of workspaces.

A layer's weight is stored (n_in, n_out) row-major; its rows are padded to a stride
that is a multiple of 16 elements, so that every row starts a cache line and a register
tile may read past n_out, and never a multiple of 4 KiB, at which every row would fall
into the same cache set (measured: 240 → 126–149 GF/s on 2048-wide layers). The bias
follows as one more row. Padding is zero and stays zero. Other layers have a weight of one
row, or none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from .catalogue import (
    CACHE_LINE,
    CACHE_SET_SPAN,
    CODES,
    FAR_BYTES,
    FAR_ROW_BLOCK,
    LANE_SAMPLES,
    LAYER_COLUMNS,
    LEAST_PARTS,
    MOST_PARTS,
    NARROW,
    NARROW_PART_ROWS,
    PACKED_BYTES,
    PANEL_WIDTH,
    PART_ROWS,
    ROW_BLOCK,
    ROW_MULTIPLE,
)

__all__ = [
    "LayerShape",
    "aligned_empty",
    "aligned_zeros",
    "forward_workspace_size",
    "hessian_workspace_size",
    "jacobian_workspace_size",
    "layer_table",
    "narrow_parts",
    "notes_size",
    "panel_size",
    "parts_size",
    "row_block",
    "row_stride",
    "sample_workspace_size",
    "training_workspace_size",
]

N_IN, N_OUT, STRIDE, BIAS, KIND = map(
    LAYER_COLUMNS.index, ("N_IN", "N_OUT", "STRIDE", "BIAS", "KIND")
)
DENSE = CODES["DENSE"]
NORMS = tuple(CODES[name] for name in ("LAYER_NORM", "BATCH_NORM", "BATCH_NORM_TRAINING"))


class LayerShape(NamedTuple):
    """What an arena has to know of a layer.

    Parameters
    ----------
    n_in, n_out : int
        Features that come in and go out.
    activation : int, default=0
        Code of the activation; 0 is the identity.
    kind : int, default=0
        Code of a row of :data:`fastmlp.kernels.catalogue.LAYER_KINDS`; 0 is a dense layer.
    n_weights : int, default=1
        Numbers of a weight that is not dense: n_out, or 1 that all units share.
    has_bias : bool, default=True
        Whether a dense layer has a bias; without, there is room for one that stays 0.
    n_penalized : int, default=0
        Rows of the weight, and the bias as one more, that are penalised.
    """

    n_in: int
    n_out: int
    activation: int = CODES["IDENTITY"]
    kind: int = DENSE
    n_weights: int = 1
    has_bias: bool = True
    n_penalized: int = 0

    def place(self, offset: int, itemsize: int) -> tuple[list[int], int]:
        """Place the layer in an arena.

        Parameters
        ----------
        offset : int
            Elements before it.
        itemsize : int
            Bytes of an element.

        Returns
        -------
        row : list of int
            The layer's row of the table.
        end : int
            Elements before the next layer.
        """
        stride = row_stride(self.n_out, itemsize)
        rows, n_weights, n_biases, reserved = 0, 0, 0, 0
        if self.kind == DENSE:
            rows, n_weights, reserved = self.n_in, self.n_out, 1
            n_biases = self.n_out if self.has_bias else 0
        elif self.kind in NORMS:  # their bias, and running means and variances
            rows, n_weights, n_biases = 1, self.n_out, self.n_out
            reserved = 1 if self.kind == CODES["LAYER_NORM"] else 3
        elif self.kind == CODES["PRELU"]:
            rows, n_weights = 1, self.n_weights
        bias = offset + rows * stride
        place = dict.fromkeys(LAYER_COLUMNS, 0) | {
            "N_IN": self.n_in,
            "N_OUT": self.n_out,
            "WEIGHT": offset,
            "STRIDE": stride,
            "BIAS": bias,
            "ACTIVATION": self.activation,
            "KIND": self.kind,
            "WEIGHT_ROWS": rows,
            "WEIGHT_COLUMNS": n_weights,
            "BIASES": n_biases,
            "PENALIZED": self.n_penalized,
        }
        return list(place.values()), bias + reserved * stride


def row_stride(n_columns: int, itemsize: int) -> int:
    """Return the padded distance between rows, in elements.

    Parameters
    ----------
    n_columns : int
        Elements in use in a row.
    itemsize : int
        Bytes of an element.

    Returns
    -------
    int
        A multiple of 16, at least `n_columns`, never a multiple of 4 KiB.
    """
    stride = -(-n_columns // ROW_MULTIPLE) * ROW_MULTIPLE
    if stride and stride * itemsize % CACHE_SET_SPAN == 0:
        stride += ROW_MULTIPLE
    return stride


def aligned_zeros(n: int, dtype: np.dtype | type | str) -> np.ndarray:
    """Return a 1-D array of `n` zeros that starts a cache line (64 bytes).

    Parameters
    ----------
    n : int
        Number of elements.
    dtype : numpy.dtype or type or str
        Type of an element.

    Returns
    -------
    numpy.ndarray of shape (n,)
        A view into a slightly larger buffer.
    """
    return _aligned(np.zeros, n, np.dtype(dtype))


def aligned_empty(n: int, dtype: np.dtype | type | str) -> np.ndarray:
    """Return a 1-D array of `n` arbitrary elements that starts a cache line (64 bytes).

    Parameters
    ----------
    n : int
        Number of elements.
    dtype : numpy.dtype or type or str
        Type of an element.

    Returns
    -------
    numpy.ndarray of shape (n,)
        A view into a slightly larger buffer.
    """
    return _aligned(np.empty, n, np.dtype(dtype))


def _aligned(make: Callable[..., np.ndarray], n: int, dtype: np.dtype) -> np.ndarray:
    buffer = make(n * dtype.itemsize + CACHE_LINE, dtype=np.uint8)
    start = -buffer.ctypes.data % CACHE_LINE
    return buffer[start : start + n * dtype.itemsize].view(dtype)


def layer_table(shapes: Sequence[LayerShape], itemsize: int) -> tuple[np.ndarray, int]:
    """Place layers one after the other in an arena.

    Parameters
    ----------
    shapes : sequence of LayerShape
        From input to output.
    itemsize : int
        Bytes of an element.

    Returns
    -------
    layers : numpy.ndarray of int64, shape (n_layers, 12)
        One row a layer, columns as in :data:`fastmlp.kernels.catalogue.LAYER_COLUMNS`.
    n_elements : int
        Length of the arena.
    """
    layers = np.zeros((len(shapes), len(LAYER_COLUMNS)), dtype=np.int64)
    offset = 0
    for row, shape in zip(layers, shapes, strict=True):
        row[:], offset = shape.place(offset, itemsize)
    return layers, offset


def notes_size(layer: np.ndarray, n_rows: int, itemsize: int) -> int:
    """Return the elements that a layer notes in a forward pass for the way back.

    Parameters
    ----------
    layer : numpy.ndarray of int64, shape (12,)
        Row of the layer table.
    n_rows : int
        Samples of the batch.
    itemsize : int
        Bytes of an element.

    Returns
    -------
    int
        For normalisation m and 1/√(v + ε), of each sample or each unit, then two sums for
        each unit; for others 0.
    """
    if layer[KIND] not in NORMS:
        return 0
    return 2 * row_stride(n_rows, itemsize) + 4 * row_stride(layer[N_OUT], itemsize)


def panel_size(depth: int, n_threads: int = 1, *, n_panels: int = 1) -> int:
    """Return the elements of workspace that a dense kernel packs its panels into.

    Parameters
    ----------
    depth : int
        Length of the contraction: n_in forward, n_out for BP2, n_samples for BP4.
    n_threads : int, default=1
        Threads that run the kernel.
    n_panels : int, default=1
        Panels for which there is room; BP4 makes use of more than one.

    Returns
    -------
    int
        Elements of the network's dtype; for each thread the panels, and a tile of inputs.
    """
    return n_threads * depth * (n_panels * PANEL_WIDTH + ROW_MULTIPLE)


def row_block(layers: np.ndarray, itemsize: int) -> int:
    """Return how many samples go through all layers together in a forward pass, at most.

    Parameters
    ----------
    layers : numpy.ndarray of int64, shape (n_layers, 12)
        The network.
    itemsize : int
        Bytes of an element.

    Returns
    -------
    int
        More for a network whose parameters lie far away.
    """
    return FAR_ROW_BLOCK if layers[-1, BIAS] * itemsize >= FAR_BYTES else ROW_BLOCK


def forward_workspace_size(layers: np.ndarray, n_rows: int, itemsize: int, n_threads: int) -> int:
    """Return the elements of workspace of `network_forward`, bounded for any `n_rows`.

    Parameters
    ----------
    layers : numpy.ndarray of int64, shape (n_layers, 12)
        The network.
    n_rows : int
        Samples in the call.
    itemsize : int
        Bytes of an element.
    n_threads : int
        Threads that run the kernel.

    Returns
    -------
    int
        Two activations of a row block and one packed panel for each thread.
    """
    stride = row_stride(int(layers[:, N_OUT].max()), itemsize)
    return n_threads * (
        2 * min(n_rows, row_block(layers, itemsize)) * stride
        + panel_size(int(layers[:, N_IN].max()))
    )


def training_workspace_size(layers: np.ndarray, n_rows: int, itemsize: int, n_threads: int) -> int:
    """Return the elements of workspace of the other network kernels.

    Parameters
    ----------
    layers : numpy.ndarray of int64, shape (n_layers, 12)
        The network.
    n_rows : int
        Samples of the largest batch.
    itemsize : int
        Bytes of an element.
    n_threads : int
        Threads that run the kernel.

    Returns
    -------
    int
        The loss of each sample, and the larger of two: what `parts_size` says; or the
        gathered batch, the activation and δ of every layer, the notes of each layer, and
        for each thread packed panels or the workspace of a forward pass.
    """
    strides = [row_stride(int(n), itemsize) for n in layers[:, N_OUT]]
    of_a_row = row_stride(int(layers[0, N_IN]), itemsize) + 2 * sum(strides)
    losses = -(-n_rows // ROW_MULTIPLE) * ROW_MULTIPLE
    notes = sum(notes_size(layer, n_rows, itemsize) for layer in layers.tolist())
    depth = max(int(layers[:, : N_OUT + 1].max()), n_rows)
    n_panels = -(-int(layers[:, N_OUT].max()) // PANEL_WIDTH)
    n_panels = max(1, min(n_panels, PACKED_BYTES // (max(n_rows, 1) * PANEL_WIDTH * itemsize)))
    scratch = max(
        panel_size(depth, n_threads),
        panel_size(n_rows, n_threads, n_panels=n_panels),
        forward_workspace_size(layers, n_rows, itemsize, n_threads),
    )
    in_parts = parts_size(layers, n_rows, itemsize, n_threads)
    return losses + max(n_rows * of_a_row + notes + scratch, in_parts)


def narrow_parts(layers: np.ndarray, n_rows: int) -> int:
    """Return in how many parts a batch goes through a narrow network of dense layers.

    Parameters
    ----------
    layers : numpy.ndarray of int64, shape (n_layers, 12)
        The network.
    n_rows : int
        Samples of the batch, at least ROW_MULTIPLE.

    Returns
    -------
    int
        0 if the network is not narrow.
    """
    if max(int(layers[0, N_IN]), *layers[:, N_OUT].tolist()) > NARROW:
        return 0
    return max(1, min(n_rows // NARROW_PART_ROWS, MOST_PARTS))


def parts_size(layers: np.ndarray, n_rows: int, itemsize: int, n_threads: int) -> int:
    """Return the elements beside the losses that a batch takes which goes in parts, else 0.

    Parameters
    ----------
    layers : numpy.ndarray of int64, shape (n_layers, 12)
        The network.
    n_rows : int
        Samples of the largest batch.
    itemsize : int
        Bytes of an element.
    n_threads : int
        Threads that run the kernel.

    Returns
    -------
    int
        A gradient for each part, and for each thread a block of samples: the inputs, a and z of
        every layer, δ of two, and three matrices of outputs or one of inputs. If the network is
        not narrow, half of what all outputs take is for the gradients.
    """
    if n_rows < ROW_MULTIPLE:
        return 0
    n_in, widths = int(layers[0, N_IN]), layers[:, N_OUT].tolist()
    strides = [row_stride(n, itemsize) for n in (n_in, *widths)]
    n_lanes = min(-(-n_rows // ROW_MULTIPLE) * ROW_MULTIPLE, LANE_SAMPLES)
    forms = max(strides[0], 3 * max(strides[1:]))
    block = n_lanes * (n_in + 2 * sum(widths) + 2 * max(strides[1:]) + forms)
    gradient = int(layers[-1, BIAS] + layers[-1, STRIDE])
    parts = narrow_parts(layers, n_rows)
    if parts:
        return parts * gradient + min(n_threads, parts) * block
    half = n_rows * (strides[0] + 2 * sum(strides[1:])) // 2
    if n_rows < LEAST_PARTS * PART_ROWS or LEAST_PARTS * int(layers[-1, BIAS]) > half:
        return 0
    return half + min(n_threads, n_rows // PART_ROWS, MOST_PARTS) * block


def jacobian_workspace_size(layers: np.ndarray, n_rows: int, itemsize: int, n_threads: int) -> int:
    """Return the elements of workspace of `network_jacobian`, bounded for any `n_rows`.

    Parameters
    ----------
    layers : numpy.ndarray of int64, shape (n_layers, 12)
        The network.
    n_rows : int
        Samples in the call.
    itemsize : int
        Bytes of an element.
    n_threads : int
        Threads that run the kernel.

    Returns
    -------
    int
        For each thread the outputs of every layer for a block of samples, two matrices
        with `n_out` rows for each of them, and one packed panel.
    """
    strides = [row_stride(int(n), itemsize) for n in layers[:, N_OUT]]
    n_out = int(layers[-1, N_OUT])
    block = min(n_rows, max(1, ROW_BLOCK // n_out))
    panel = panel_size(int(layers[:, : N_OUT + 1].max()))
    return n_threads * (block * (sum(strides) + 2 * n_out * max(strides)) + panel)


def hessian_workspace_size(layers: np.ndarray, n_rows: int, itemsize: int, n_threads: int) -> int:
    """Return the elements of workspace of `network_hessian_product`.

    Parameters
    ----------
    layers : numpy.ndarray of int64, shape (n_layers, 12)
        The network.
    n_rows : int
        Samples in the call.
    itemsize : int
        Bytes of an element.
    n_threads : int
        Threads that run the kernel.

    Returns
    -------
    int
        The training workspace; R{z}, R{a}, R{δ} and z of every layer; two matrices and two
        rows as wide as the widest layer.
    """
    strides = [row_stride(int(n), itemsize) for n in layers[:, N_OUT]]
    more = n_rows * (4 * sum(strides) + 2 * max(strides)) + 2 * max(strides)
    return training_workspace_size(layers, n_rows, itemsize, n_threads) + more


def sample_workspace_size(layers: np.ndarray, n_rows: int, itemsize: int, n_threads: int) -> int:
    """Return the elements of workspace of `network_sample_gradients`, for any `n_rows`.

    Parameters
    ----------
    layers : numpy.ndarray of int64, shape (n_layers, 12)
        The network.
    n_rows : int
        Samples in the call.
    itemsize : int
        Bytes of an element.
    n_threads : int
        Threads that run the kernel.

    Returns
    -------
    int
        For each thread the training workspace of one sample, to whole cache lines.
    """
    size = training_workspace_size(layers, 1, itemsize, 1)
    return n_threads * -(-size // ROW_MULTIPLE) * ROW_MULTIPLE

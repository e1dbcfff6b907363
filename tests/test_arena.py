"""The arena: rows are aligned and apart, layers do not overlap, nothing is lost."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fastmlp.kernels import arena
from fastmlp.kernels.catalogue import CODES

SIZES = [(1, 1), (3, 16), (5, 17), (2, 1024), (784, 2048), (7, 10)]


@pytest.mark.parametrize("itemsize", [4, 8])
def test_row_stride_is_padded_least(itemsize):
    for n_columns in range(5000):
        stride = arena.row_stride(n_columns, itemsize)
        assert stride % 16 == 0
        assert n_columns == stride == 0 or stride * itemsize % 4096 != 0
        assert n_columns <= stride < n_columns + 32


def test_row_stride_without_conflict_is_the_next_multiple_of_16():
    assert [arena.row_stride(n, 4) for n in (1, 16, 17, 32, 1008)] == [16, 16, 32, 32, 1008]


def test_row_stride_steps_over_4_kib():
    assert arena.row_stride(1024, 4) == 1040
    assert arena.row_stride(1024, 8) == 1040
    assert arena.row_stride(512, 8) == 528
    assert arena.row_stride(512, 4) == 512


@pytest.mark.parametrize("n", [0, 1, 15, 16, 1000])
def test_aligned_zeros(n, dtype):
    for _ in range(8):  # the allocator's own alignment varies
        array = arena.aligned_zeros(n, dtype)
        assert array.shape == (n,)
        assert array.dtype == dtype
        assert not array.any()
        assert array.flags.writeable
        assert n == 0 or array.ctypes.data % 64 == 0


def test_aligned_empty(dtype):
    array = arena.aligned_empty(15, dtype)
    assert array.shape == (15,)
    assert array.dtype == dtype
    assert array.ctypes.data % 64 == 0


@pytest.mark.parametrize("itemsize", [4, 8])
def test_layers_fill_the_arena_without_overlap(itemsize):
    shapes = [arena.LayerShape(*sizes, code) for code, sizes in enumerate(SIZES)]
    layers, n_elements = arena.layer_table(shapes, itemsize)
    assert layers.dtype == np.int64
    owners = np.zeros(n_elements, int)
    for (n_in, n_out), row in zip(SIZES, layers, strict=True):
        weight, stride, bias = (row[CODES[name]] for name in ("WEIGHT", "STRIDE", "BIAS"))
        assert (row[CODES["N_IN"]], row[CODES["N_OUT"]]) == (n_in, n_out)
        assert stride == arena.row_stride(n_out, itemsize)
        assert weight * itemsize % 64 == bias * itemsize % 64 == 0
        owners[weight : weight + n_in * stride] += 1
        owners[bias : bias + stride] += 1
    assert (owners == 1).all()
    assert layers[:, CODES["ACTIVATION"]].tolist() == list(range(len(SIZES)))


def test_forward_workspace_is_bounded():
    layers, _ = arena.layer_table([arena.LayerShape(64, 256), arena.LayerShape(256, 10)], 4)
    sizes = [arena.forward_workspace_size(layers, n, 4, 2) for n in (96, 97, 1_000_000)]
    assert sizes[0] == sizes[1] == sizes[2]


def test_workspaces_grow_with_threads_and_rows():
    layers, _ = arena.layer_table([arena.LayerShape(64, 256), arena.LayerShape(256, 10)], 4)
    for size in (arena.forward_workspace_size, arena.training_workspace_size):
        assert size(layers, 1, 4, 1) < size(layers, 2, 4, 1) < size(layers, 2, 4, 2)


@pytest.mark.parametrize("sizes", [(1, 1), (128, 3), (784, 1), (784, 30, 10), (1, 300), (1024, 2)])
@pytest.mark.parametrize("n_threads", [1, 4])
def test_a_batch_in_parts_has_a_block_for_each_thread(sizes, n_threads):
    shapes = [arena.LayerShape(*pair) for pair in itertools.pairwise(sizes)]
    layers, n_elements = arena.layer_table(shapes, 4)
    strides = [arena.row_stride(size, 4) for size in sizes]
    widest = max(strides[1:])
    block = 96 * (2 * sum(sizes) - sizes[0] + 2 * widest + max(strides[0], 3 * widest))
    of_a_row = strides[0] + 2 * sum(strides[1:])
    for n_rows in (96, 512, 700, 5000):
        parts = min(n_rows // (48 if max(sizes) <= 128 else 128), 32)
        if max(sizes) > 128 and (parts < 4 or 2 * parts * n_elements > n_rows * of_a_row):
            continue
        size = arena.training_workspace_size(layers, n_rows, 4, n_threads)
        assert size >= n_rows + parts * n_elements + min(n_threads, parts) * block

"""Subnormal numbers live: no kernel, no build flag and no import turns them into 0.

Only moments that fade, and gradients of classes that are sure, end before them: steps would take
several times as long.
"""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fastmlp.kernels import arena
from fastmlp.kernels.catalogue import CODES, OPTIMIZERS

#: A fresh process, because the mode of the processor's float unit is set once, by a library
#: as it loads; a thread started later inherits it.
FRESH_PROCESS = """
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np


def subnormals_live():
    halves = [np.full(64, info.tiny) / 2 for info in map(np.finfo, (np.float32, np.float64))]
    return all(half.all() and (half * half.dtype.type(1)).all() for half in halves)


def check(when):
    with ThreadPoolExecutor(1) as pool:
        assert subnormals_live() and pool.submit(subnormals_live).result(), when


check("before")
import fastmlp
check("after the import of fastmlp")

from fastmlp.kernels import arena, load_backend

kernels = load_backend(sys.argv[1])
check("after the import of the kernels")

for dtype in (np.float32, np.float64):
    shapes = arena.LayerShape(9, 33, 1), arena.LayerShape(33, 2)
    layers, n = arena.layer_table(shapes, np.dtype(dtype).itemsize)
    size = arena.training_workspace_size(layers, 16, np.dtype(dtype).itemsize, 2)
    kernels.network_train(
        layers, np.zeros((2, 6)), np.full(n, 0.1, dtype), np.zeros((0, n), dtype),
        np.ones((64, 9), dtype), np.ones((64, 2), dtype), np.empty(0, np.int64),
        np.empty(0, dtype), np.arange(64), 16, 0, np.empty(0), 0, np.full((4, 2), 0.1),
        np.empty(0), np.inf, np.inf, np.empty(0, dtype), np.empty(4),
        arena.aligned_zeros(size, dtype), 2,
    )
check("after a training run")
"""


def test_subnormals_survive_import_and_training(backend):
    subprocess.run([sys.executable, "-P", "-c", FRESH_PROCESS, backend], timeout=300, check=True)


def subnormals(dtype, n):
    """Return the multiples 1, 2, 3 … of the smallest number."""
    return np.arange(1, n + 1).astype(dtype) * np.finfo(dtype).smallest_subnormal


@pytest.mark.parametrize("name", ["identity", "relu", "leaky_relu", "tanh"])
def test_activations_keep_subnormals(kernels, dtype, name):
    z = subnormals(dtype, 67)[None]
    out = np.empty_like(z)
    kernels.activation_forward(z, CODES[name.upper()], 0.2, out)
    np.testing.assert_array_equal(out, z)
    kernels.activation_backward(z, z, CODES[name.upper()], 0.2, out)
    np.testing.assert_array_equal(out, z)


@pytest.mark.parametrize("n_threads", [1, 7])
def test_dense_keeps_subnormals(kernels, dtype, n_threads):
    x, weight = np.eye(67, dtype=dtype), subnormals(dtype, 67 * 67).reshape(67, 67)
    bias, out = np.zeros(67, dtype), np.empty((67, 67), dtype)
    workspace = arena.aligned_zeros(arena.panel_size(67, n_threads), dtype)
    identity = CODES["IDENTITY"]
    kernels.dense_forward(x, weight, bias, identity, 0.0, out, workspace, n_threads)
    np.testing.assert_array_equal(out, weight)
    kernels.dense_backward_input(x, weight, x, identity, 0.0, out, workspace, n_threads)
    np.testing.assert_array_equal(out, weight.T)
    kernels.dense_backward_weight(x, weight, out, bias, workspace, n_threads)
    np.testing.assert_array_equal(out, weight)


def test_optimizer_keeps_subnormals(kernels, dtype):
    grad = subnormals(dtype, 67)
    parameters, state = np.zeros_like(grad), np.zeros((0, 67), dtype)
    kernels.optimizer_step(parameters, grad, state, CODES["SGD"], np.array([1.0, 0.0]), 2)
    np.testing.assert_array_equal(parameters, -grad)


def test_kernels_leave_the_modes_of_other_threads_alone(kernels, dtype):
    tiny = subnormals(dtype, 67)[None]
    with ThreadPoolExecutor(1) as pool:
        pool.submit(kernels.softmax_forward, tiny, np.empty_like(tiny)).result()
        assert pool.submit(lambda: bool((tiny * dtype(1)).all())).result()
    assert (tiny * dtype(1)).all()


def is_normal(numbers):
    """Return whether numbers are 0 or not subnormal."""
    return (numbers == 0) | (np.abs(numbers) >= np.finfo(numbers.dtype).tiny)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda row: row.name)
def test_what_fades_ends_before_the_subnormals(kernels, dtype, optimizer):
    small = np.finfo(dtype).tiny * np.linspace(1, 8, 67, dtype=dtype)
    parameters, grad, state = 0 * small, 0 * small, np.tile(small, (len(optimizer.state), 1))
    coefficients = np.linspace(0.2, 0.8, len(optimizer.coefficients))
    if "eps" in optimizer.coefficients and optimizer.name != "adamax":  # whose maximum fades
        coefficients[optimizer.coefficients.index("eps")] = 0
    for _ in range(9):
        kernels.optimizer_step(parameters, grad, state, optimizer.code, coefficients)
        assert is_normal(state).all()
    assert np.isfinite(parameters).all()


@pytest.mark.parametrize(
    ("loss", "labelled", "loss_parameters"),
    [
        ("CROSS_ENTROPY", True, [0]),
        ("CROSS_ENTROPY", False, [0]),
        ("BINARY_CROSS_ENTROPY", False, []),
        ("BINARY_CROSS_ENTROPY", False, [2, 2]),
    ],
)
def test_certainty_gives_no_subnormal_gradient(kernels, dtype, loss, labelled, loss_parameters):
    """Logits of a network that has learnt its data by heart."""
    lowest = np.log(np.finfo(dtype).smallest_subnormal)
    logits = np.zeros((99, 2), dtype)
    logits[:, 1] = np.linspace(1.05 * lowest, 0.3 * lowest, 99)
    targets, labels = np.tile(np.array([1, 0], dtype), (99, 1)), np.empty(0, np.int64)
    if labelled:
        targets, labels = np.empty((0, 0), dtype), np.zeros(99, np.int64)
    parameters, grad = np.array(loss_parameters, np.float64), np.empty_like(logits)
    kernels.loss_backward(
        logits, targets, labels, np.empty(0, dtype), CODES[loss], parameters, grad
    )
    assert is_normal(grad[:, 1]).all()
    assert grad[-1, 1] > 0

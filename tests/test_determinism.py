"""The same bits for any number of threads, alone or beside other calls, and after a fork."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fastmlp.kernels import arena
from fastmlp.kernels.catalogue import CODES, OPTIMIZERS

#: Larger than a row block in every direction, with odd tails, and small.
WIDTHS = {"large": (64, 257, 100, 10), "small": (5, 4, 3)}
ACTIVATIONS = {"large": ("relu", "tanh", "identity"), "small": ("sigmoid", "identity")}

ADAM, SGD = (next(row for row in OPTIMIZERS if row.name == name) for name in ("adam", "sgd"))

#: Samples below and above all numbers up to which kernels take few of them in another way.
FEW = [1, 2, 4, 5, 9, 33]

every_network = pytest.mark.parametrize("network", WIDTHS)
several_threads = pytest.mark.parametrize("n_threads", [2, 3, 7])


@pytest.fixture
def make_network(make_problem, dtype):
    """Return the function that draws a classifier with some hundred weighted samples."""

    def make(network, n=300):
        problem = make_problem(
            dtype, WIDTHS[network], ACTIVATIONS[network], "cross_entropy", n, as_labels=True
        )
        weights = np.random.default_rng(4).random(n).astype(dtype)
        return problem.replace(sample_weight=weights)

    return make


def trained(kernels, problem, n_threads, optimizer=ADAM, batch_size=128, clips=False):
    """Return parameters, state and losses after 3 epochs, perhaps with limits and an average."""
    rng = np.random.default_rng(3)
    order = np.concatenate([rng.permutation(len(problem.x)) for _ in range(3)])
    n_steps = -(-len(order) // batch_size)
    n_state = len(optimizer.state) + clips
    results = {
        "parameters": problem.parameters.copy(),
        "state": np.zeros((n_state, len(problem.parameters)), problem.dtype),
        "losses": np.full(n_steps, np.nan),
    }
    others = {}
    if clips:
        results["grad"] = np.zeros_like(problem.parameters)
        others = {"averaging": np.full(n_steps, 0.3), "clip_value": 0.01, "clip_norm": 0.05}
    coefficients = np.tile(np.linspace(0.05, 0.9, len(optimizer.coefficients)), (n_steps, 1))
    arguments = problem.arguments(
        "network_train",
        n_threads,
        order=order,
        batch_size=batch_size,
        optimizer=optimizer.code,
        coefficients=coefficients,
        **results,
        **others,
    )
    kernels.network_train(**arguments)
    assert np.isfinite(results["losses"]).all()
    return results


def assert_same_bits(actual, expected):
    for name, array in expected.items():
        assert actual[name].tobytes() == array.tobytes(), f"{name} differ"


@several_threads
@every_network
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda row: row.name)
def test_training(kernels, make_network, network, optimizer, n_threads):
    problem = make_network(network)
    expected = trained(kernels, problem, 1, optimizer)
    assert_same_bits(trained(kernels, problem, n_threads, optimizer), expected)


@pytest.mark.parametrize("batch_size", [1, 32])
def test_training_with_small_batches(kernels, make_network, batch_size):
    problem = make_network("small")
    expected = trained(kernels, problem, 1, batch_size=batch_size)
    assert_same_bits(trained(kernels, problem, 7, batch_size=batch_size), expected)


@several_threads
@pytest.mark.parametrize("batch_size", FEW)
@pytest.mark.parametrize("optimizer", [SGD, ADAM], ids=lambda row: row.name)
def test_training_of_layers_wider_than_the_batch(
    kernels, make_network, optimizer, batch_size, n_threads
):
    problem = make_network("large", 35)
    expected = trained(kernels, problem, 1, optimizer, batch_size)
    assert_same_bits(trained(kernels, problem, n_threads, optimizer, batch_size), expected)


@several_threads
@pytest.mark.parametrize(("network", "batch_size"), [("large", 128), ("small", 128), ("small", 1)])
def test_training_with_clipping(kernels, make_network, network, batch_size, n_threads):
    problem = make_network(network)
    expected = trained(kernels, problem, 1, batch_size=batch_size, clips=True)
    actual = trained(kernels, problem, n_threads, batch_size=batch_size, clips=True)
    assert_same_bits(actual, expected)


@several_threads
@pytest.mark.parametrize("clips", [False, True])
def test_training_with_large_batches(kernels, make_network, n_threads, clips):
    problem = make_network("small", 5000)
    expected = trained(kernels, problem, 1, batch_size=4400, clips=clips)
    actual = trained(kernels, problem, n_threads, batch_size=4400, clips=clips)
    assert_same_bits(actual, expected)


def passed(kernels, problem, n_threads):
    """Return the outputs, the loss and the gradient of a batch."""
    out = np.full((len(problem.x), problem.n_out), np.nan, problem.dtype)
    grad = np.zeros_like(problem.parameters)
    kernels.network_forward(**problem.arguments("network_forward", n_threads, out=out))
    arguments = problem.arguments("network_gradient", n_threads, grad=grad)
    value = kernels.network_gradient(**arguments)
    return {"out": out, "grad": grad, "value": np.array(value)}


@several_threads
@pytest.mark.parametrize(
    ("network", "n_samples"),
    [("large", 300), ("small", 300), ("small", 5000), *[("large", n) for n in FEW]],
)
def test_forward_and_gradient(kernels, make_network, network, n_samples, n_threads):
    problem = make_network(network, n_samples)
    assert_same_bits(passed(kernels, problem, n_threads), passed(kernels, problem, 1))


@pytest.mark.parametrize("n_threads", [2, 4])
def test_deep_networks_whose_layers_wait_for_nobody(
    backend, kernels, make_problem, dtype, n_threads
):
    """Where each thread keeps its rows, one may be layers ahead of another."""
    widths = [64, *[32, 32, 16, 16] * 8, 4]
    activations = ["tanh"] * (len(widths) - 2) + ["identity"]
    problem = make_problem(dtype, widths, activations, "cross_entropy", 32, as_labels=True)
    expected = passed(kernels, problem, 1)
    for _ in range(300 if backend == "cython" else 3):
        assert_same_bits(passed(kernels, problem, n_threads), expected)


def dense(kernels, rng, dtype, size, n_threads):
    """Return what the dense kernels write."""
    n_samples, n_in, n_out = size
    x, delta = rng.normal(size=(n_samples, n_in)), rng.normal(size=(n_samples, n_out))
    x, delta, weight = x.astype(dtype), delta.astype(dtype), rng.normal(size=(n_in, n_out))
    weight, bias = weight.astype(dtype), rng.normal(size=n_out).astype(dtype)
    workspace = arena.aligned_zeros(arena.panel_size(max(size), n_threads), dtype)
    results = {
        "out": np.empty((n_samples, n_out), dtype),
        "below": np.empty((n_samples, n_in), dtype),
        "grad_weight": np.empty((n_in, n_out), dtype),
        "grad_bias": np.empty(n_out, dtype),
    }
    tanh, out, below = CODES["TANH"], results["out"], results["below"]
    kernels.dense_forward(x, weight, bias, tanh, 0.0, out, workspace, n_threads)
    kernels.dense_backward_input(delta, weight, x, tanh, 0.0, below, workspace, n_threads)
    gradients = results["grad_weight"], results["grad_bias"]
    kernels.dense_backward_weight(x, delta, *gradients, workspace, n_threads)
    return results


@several_threads
@pytest.mark.parametrize(
    "size", [(5, 7, 9), (200, 65, 300), (70, 1100, 300)], ids=["small", "large", "far"]
)
def test_dense(kernels, dtype, size, n_threads):
    one, several = (
        dense(kernels, np.random.default_rng(5), dtype, size, n) for n in (1, n_threads)
    )
    assert_same_bits(several, one)


def test_calls_from_several_python_threads(kernels, make_network):
    problem = make_network("large")
    expected = trained(kernels, problem, 1)
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda n: trained(kernels, problem, n), [1, 2, 3, 2]):
            assert_same_bits(result, expected)


FORK = """
import os
import numpy as np
import fastmlp as fm

with fm.use_backend({backend!r}):
    fm.set_num_threads(2)
    network = fm.MLP.from_sizes([64, 256, 10], seed=0)
    x = np.ones((256, 64), np.float32)
    expected = network(x)
    child = os.fork()
    if child == 0:
        os._exit(not np.array_equal(network(x), expected))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert np.array_equal(network(x), expected)
"""


def test_forked_child_computes(backend):
    code = FORK.format(backend=backend)
    subprocess.run([sys.executable, "-P", "-W", "ignore", "-c", code], timeout=300, check=True)

"""Kernels of other derivatives agree with the reference, and the reference with differences."""

from __future__ import annotations

import numpy as np
import pytest

from fastmlp.kernels import arena, reference
from fastmlp.kernels.catalogue import ACTIVATIONS

#: Widths of networks of depth 1 to 4, with odd tails, more outputs than inputs, one unit.
WIDTHS = {1: (7, 3), 2: (5, 33, 10), 3: (65, 31, 1, 5), 4: (9, 100, 16, 8, 2)}
NAMES = ("silu", "tanh", "leaky_relu")

#: No samples, one, an odd number, more than a row block.
N_SAMPLES = (0, 1, 2, 13, 97)


every_depth = pytest.mark.parametrize("depth", WIDTHS)
every_batch = pytest.mark.parametrize("n_samples", N_SAMPLES)
every_thread_count = pytest.mark.parametrize("n_threads", [2, 3, 7])


@pytest.fixture
def make_network(make_problem, dtype):
    """Return the function that draws a network of some depth, its last layer linear."""

    def make(depth, n_samples, **options):
        activations = (*NAMES[: depth - 1], "identity")
        return make_problem(dtype, WIDTHS[depth], activations, n_samples=n_samples, **options)

    return make


@pytest.fixture
def compare_derivative(compare, rng):
    """Return the function that compares a kernel of this file on a problem."""

    def run(kernel, problem, n_threads=1, **others):
        n_in, n, dtype = problem.x.shape[1], len(problem.x), problem.dtype
        vector = np.zeros_like(problem.parameters)
        vector[problem.used] = rng.normal(size=len(problem.used))
        n_elements = len(problem.parameters)
        shapes = {
            "network_input_gradient": (n, n_in),
            "network_jacobian": (n * problem.n_out, n_in),
            "network_sample_gradients": (n, n_elements),
            "network_gradient_norms": (n,),
            "network_hessian_product": (n_elements,),
        }
        out = np.full(shapes[kernel], np.nan, dtype)
        sizes = {
            "network_jacobian": arena.jacobian_workspace_size,
            "network_hessian_product": arena.hessian_workspace_size,
            "network_sample_gradients": arena.sample_workspace_size,
        }
        size_of = sizes.get(kernel, arena.training_workspace_size)
        workspace = np.full(size_of(problem.layers, n, dtype.itemsize, n_threads), np.nan, dtype)
        options = {"vector": vector, "out": out, "workspace": workspace} | others
        arguments = problem.arguments(kernel, n_threads, **options)
        magnitudes = {"out": None}
        if kernel == "network_input_gradient":
            magnitudes["return"] = None
        n_terms = problem.n_terms * (4 if kernel == "network_hessian_product" else 1)
        return compare(kernel, arguments, magnitudes, n_terms)["out"]

    return run


KERNELS = (
    "network_gradient_norms",
    "network_hessian_product",
    "network_input_gradient",
    "network_jacobian",
    "network_sample_gradients",
)
every_kernel = pytest.mark.parametrize("kernel", KERNELS)


@every_kernel
@every_depth
@every_batch
def test_sizes(compare_derivative, make_network, kernel, depth, n_samples):
    compare_derivative(kernel, make_network(depth, n_samples))


@every_kernel
@pytest.mark.parametrize("name", [row.name for row in ACTIVATIONS])
def test_activations(compare_derivative, make_problem, dtype, kernel, name):
    problem = make_problem(dtype, (5, 9, 4, 3), (name,) * 3, "mse", n_samples=5, margin=0.01)
    compare_derivative(kernel, problem)


@every_kernel
@every_thread_count
def test_threads(compare_derivative, make_problem, dtype, kernel, n_threads):
    problem = make_problem(dtype, WIDTHS[4], (*NAMES, "mish"), n_samples=97)
    compare_derivative(kernel, problem, n_threads)


@pytest.mark.parametrize("kernel", [name for name in KERNELS if name != "network_jacobian"])
@pytest.mark.parametrize("n_samples", [1, 13])
def test_losses(compare_derivative, make_network, objective, kernel, n_samples):
    compare_derivative(kernel, make_network(2, n_samples, **objective))


@pytest.mark.parametrize("kernel", ["network_hessian_product", "network_input_gradient"])
def test_sample_weight(compare_derivative, make_network, rng, objective, kernel):
    problem = make_network(2, 13, **objective)
    sample_weight = 3 * rng.random(13).astype(problem.dtype)
    sample_weight[::3] = 0
    compare_derivative(kernel, problem.replace(sample_weight=sample_weight))
    out = compare_derivative(kernel, problem.replace(sample_weight=0 * sample_weight))
    assert not out.reshape(-1)[problem.used if out.ndim == 1 else slice(None)].any()


# --- Against central differences ----------------------------------------------------------


def differences(function, at, h=1e-5):
    """Return the derivatives of a vector-valued function by each entry of `at`."""
    columns = []
    for index in range(at.size):
        pair = []
        for sign in (1, -1):
            moved = at.copy()
            moved.flat[index] += sign * h
            pair.append(function(moved))
        columns.append((pair[0] - pair[1]) / (2 * h))
    return np.stack(columns, axis=-1)


def gradient(problem, **changes):
    """Return the gradient in the reference, without padding."""
    problem = problem.replace(**changes)
    grad = np.zeros_like(problem.parameters)
    reference.network_gradient(**problem.arguments("network_gradient", grad=grad))
    return grad[problem.used]


def assert_same(actual, expected, tolerance=1e-8):
    assert np.abs(expected).max() > 1e-3  # else the comparison says nothing
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.fixture
def small(make_problem, objective):
    """Return the function that draws a small network of an activation, with every loss."""
    return lambda name: make_problem(
        np.float64, (4, 5, 3), (name, "sigmoid"), **objective, n_samples=3, margin=1e-3
    )


every_activation = pytest.mark.parametrize("name", [row.name for row in ACTIVATIONS])


@every_activation
def test_input_gradient_is_the_derivative(small, name):
    problem, out = small(name), np.empty((3, 4))
    arguments = problem.arguments("network_input_gradient", out=out)
    value = reference.network_input_gradient(**arguments)

    def risk(x):
        arguments = problem.replace(x=x).arguments("network_loss")
        return np.array(reference.network_loss(**arguments))

    assert value == risk(problem.x)
    assert_same(out.ravel(), differences(risk, problem.x))


@every_activation
def test_jacobian_is_the_derivative(small, name):
    problem = small(name)
    n_out = problem.n_out
    out = np.empty((3 * n_out, 4))
    reference.network_jacobian(**problem.arguments("network_jacobian", out=out))

    def outputs(x):
        y = np.empty((1, n_out))
        arguments = problem.replace(x=x).arguments("network_forward", out=y)
        reference.network_forward(**arguments)
        return y[0]

    for i in range(3):
        expected = differences(outputs, problem.x[i : i + 1])
        assert_same(out[n_out * i : n_out * (i + 1)], expected)


@every_activation
def test_sample_gradients_are_those_of_one_sample(small, name):
    problem = small(name)
    out, norms = np.zeros((3, len(problem.parameters))), np.empty(3)
    reference.network_sample_gradients(**problem.arguments("network_sample_gradients", out=out))
    reference.network_gradient_norms(**problem.arguments("network_gradient_norms", out=norms))
    assert_same(out.mean(axis=0)[problem.used], gradient(problem), 1e-14)
    assert_same(norms, np.linalg.norm(out[:, problem.used], axis=1), 1e-14)


@every_activation
def test_hessian_product_is_the_derivative_of_the_gradient(small, rng, objective, name):
    problem = small(name).replace(sample_weight=np.array([1, 0.5, 2]))
    vector, out = np.zeros((2, len(problem.parameters)))
    vector[problem.used] = rng.normal(size=len(problem.used))
    arguments = problem.arguments("network_hessian_product", vector=vector, out=out)
    reference.network_hessian_product(**arguments)

    def along(t):
        return gradient(problem, parameters=problem.parameters + t[0] * vector)

    assert_same(out[problem.used], differences(along, np.zeros(1), h=1e-6)[:, 0])


# --- The fair finite differences ----------------------------------------------------------


def fair_arguments(problem, central, rng):
    steps = rng.uniform(0.1, 0.3, len(problem.used)).astype(problem.dtype)
    steps[::2] *= -1
    return problem.arguments(
        "network_fair_difference_gradient",
        indices=rng.permutation(problem.used),
        steps=steps,
        central=central,
        out=np.full(len(steps), np.nan),
    )


@pytest.mark.parametrize("central", [False, True], ids=["forward", "central"])
@pytest.mark.parametrize("n_samples", [1, 5, 97])
@pytest.mark.parametrize(
    ("widths", "activations"),
    [
        ((5, 3), ("sigmoid",)),
        ((5, 4, 3), ("tanh", "identity")),
        ((3, 17, 4, 5, 3), ("relu", "tanh", "leaky_relu", "identity")),
    ],
)
def test_fair_differences(compare, make_problem, rng, widths, activations, n_samples, central):
    problem = make_problem(np.float64, widths, activations, "mse", n_samples)
    arguments = fair_arguments(problem, central, rng)
    magnitudes = {"out": 1 / np.abs(arguments["steps"])}
    fair = compare("network_fair_difference_gradient", arguments, magnitudes, problem.n_terms)
    naive = arguments | {"out": np.empty(len(fair["out"])), "parameters": problem.parameters}
    reference.network_difference_gradient(**naive)
    np.testing.assert_allclose(fair["out"], naive["out"], rtol=0, atol=1e-12)


def test_fair_differences_of_every_loss(compare, make_problem, rng, objective):
    problem = make_problem(np.float64, (5, 4, 3), ("tanh", "identity"), **objective)
    problem = problem.replace(sample_weight=np.array([1, 0, 2, 0.5, 3]))
    arguments = fair_arguments(problem, True, rng)
    magnitudes = {"out": 1 / np.abs(arguments["steps"])}
    compare("network_fair_difference_gradient", arguments, magnitudes, problem.n_terms)


def test_fair_differences_in_float32(kernels, make_problem, rng):
    problem = make_problem(np.float32, (5, 4, 3), ("tanh", "identity"), "mse")
    arguments = fair_arguments(problem, True, rng)
    kernels.network_fair_difference_gradient(**arguments)
    expected = arguments | {"out": np.empty(len(arguments["out"]))}
    reference.network_fair_difference_gradient(**expected)
    np.testing.assert_allclose(arguments["out"], expected["out"], rtol=0, atol=1e-4)

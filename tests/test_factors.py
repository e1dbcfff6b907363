"""A gradient kept as its factors is the gradient, and is formed only when it is asked for."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import fastmlp as fm
from fastmlp.kernels import arena, reference
from fastmlp.kernels.catalogue import ACTIVATIONS

SIZES = (5, 9, 17, 3)
SAMPLES = (1, 2, 3, 4, 9, 40)


@pytest.fixture
def compare_factors(compare):
    """Return the function that compares the kernel with the reference, and gives its factors."""

    def run(problem, n_threads=1, **others):
        n, dtype = len(problem.x), problem.dtype
        n_in, n_out = problem.layers[:, :2].sum(axis=0)
        size = arena.training_workspace_size(problem.layers, n, dtype.itemsize, n_threads)
        options = {
            "inputs": np.full((n, n_in), np.nan, dtype),
            "deltas": np.full((n, n_out), np.nan, dtype),
            "workspace": np.full(size, np.nan, dtype),
        }
        arguments = problem.arguments("network_factors", n_threads, **options | others)
        magnitudes = {"inputs": None, "deltas": None, "return": None}
        return compare("network_factors", arguments, magnitudes, problem.n_terms)

    return run


@pytest.fixture
def make(rng):
    """Return the function that draws a network, samples and labels."""

    def draw(n_samples, dtype="float64", activation="relu"):
        net = fm.MLP.from_sizes(SIZES, activation, dtype=dtype, seed=rng)
        net.set_parameters(rng.normal(size=net.n_parameters))
        return net, rng.normal(size=(n_samples, SIZES[0])), np.arange(n_samples) % SIZES[-1]

    return draw


@pytest.mark.parametrize("n_samples", [0, 1, 2, 13, 97])
@pytest.mark.parametrize("widths", [(7, 3), (5, 33, 10), (65, 31, 1, 5)])
def test_kernel_with_sizes(compare_factors, make_problem, dtype, widths, n_samples):
    activations = ("leaky_relu", "tanh", "identity")[-len(widths) + 1 :]
    compare_factors(make_problem(dtype, widths, activations, n_samples=n_samples))


@pytest.mark.parametrize("name", [row.name for row in ACTIVATIONS])
@pytest.mark.parametrize("n_samples", [1, 5])
def test_kernel_with_activations(compare_factors, make_problem, dtype, name, n_samples):
    problem = make_problem(dtype, (5, 40, 20, 3), (name,) * 3, "mse", n_samples, margin=1e-3)
    compare_factors(problem)


@pytest.mark.parametrize("name", ["relu", "relu6", "tanh"])
@pytest.mark.parametrize("n_samples", [1, 2, 4])
def test_kernel_where_units_are_off(compare_factors, make_problem, dtype, name, n_samples):
    problem = make_problem(dtype, (5, 150, 70, 3), (name, name, "identity"), n_samples=n_samples)
    deltas = compare_factors(problem)["deltas"]
    assert name == "tanh" or 0.1 < (deltas == 0).mean() < 0.9


@pytest.mark.parametrize("n_threads", [2, 3, 7])
def test_kernel_on_threads(compare_factors, make_problem, dtype, n_threads):
    problem = make_problem(dtype, (9, 100, 16, 2), ("relu", "tanh", "identity"), n_samples=97)
    compare_factors(problem, n_threads)


def test_kernel_with_losses(compare_factors, make_problem, dtype, objective, rng):
    problem = make_problem(dtype, (5, 9, 4), ("tanh", "identity"), **objective)
    compare_factors(problem)
    weights = 3 * rng.random(5).astype(dtype)
    weights[1] = 0
    compare_factors(problem.replace(sample_weight=weights))
    deltas = compare_factors(problem.replace(sample_weight=0 * weights))["deltas"]
    assert not deltas.any()


def test_their_products_are_the_gradient(make_problem, objective):
    problem = make_problem(np.float64, (5, 9, 4), ("tanh", "identity"), **objective)
    n_in, n_out = problem.layers[:, :2].sum(axis=0)
    inputs, deltas = np.empty((5, n_in)), np.empty((5, n_out))
    arguments = problem.arguments("network_factors", inputs=inputs, deltas=deltas)
    value = reference.network_factors(**arguments)
    grad, first_in, first_out = np.zeros_like(problem.parameters), 0, 0
    assert value == reference.network_gradient(**problem.arguments("network_gradient", grad=grad))
    for n_in, n_out, start, stride, bias in problem.layers[:, :5]:
        a, delta = inputs[:, first_in:][:, :n_in], deltas[:, first_out:][:, :n_out]
        weight = grad[start:bias].reshape(n_in, stride)[:, :n_out]
        np.testing.assert_allclose(a.T @ delta, weight, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(delta.sum(axis=0), grad[bias:][:n_out], rtol=1e-12, atol=1e-14)
        first_in, first_out = first_in + n_in, first_out + n_out


@pytest.mark.parametrize("n_samples", [0, 1, 6])
def test_norms_of_factors(compare, make_problem, dtype, rng, n_samples):
    layers = make_problem(dtype, (7, 33, 1, 5), ("tanh",) * 3).layers
    arguments = {
        "layers": layers,
        "inputs": rng.normal(size=(n_samples, 41)).astype(dtype),
        "deltas": rng.normal(size=(n_samples, 39)).astype(dtype),
        "out": np.full(n_samples, np.nan, dtype),
    }
    compare("factor_norms", arguments, {"out": None}, 80)


@pytest.mark.parametrize("n_samples", SAMPLES)
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_entries_are_those_of_the_gradient(backend, make, dtype, n_samples, activation):
    net, X, y = make(n_samples, dtype, activation)
    X = X.astype(dtype)
    with fm.use_backend(backend):
        value, grad = net.value_and_grad(X, y)
        for _ in range(2):  # with the checks, and without
            same, factored = net.value_and_grad(X, y, factored=True)
            assert same == value
            assert len(factored.weights) == len(factored.biases) == len(factored.deltas) == 3
            vector = factored.to_vector()
            assert vector.dtype == dtype
            tolerance = 8 * np.finfo(dtype).eps * np.abs(vector).max()
            np.testing.assert_allclose(vector, grad.to_vector(), rtol=0, atol=tolerance)
            if backend == "cython":  # the same sums in the same order
                np.testing.assert_array_equal(vector, grad.to_vector())
            assert factored.norm() == pytest.approx(np.linalg.norm(vector), rel=1e-5)
            assert grad.norm() == pytest.approx(factored.norm(), rel=1e-5)
            norms = net.gradient_norms(X, y)
            np.testing.assert_allclose(
                n_samples * factored.sample_norms(), norms, rtol=0, atol=1e-5 * norms.max()
            )


def test_one_sample_has_a_row(make):
    net, X, y = make(1)
    for _ in range(2):
        value, grad = net.value_and_grad(X[0], int(y[0]), factored=True)
        same, batch = net.value_and_grad(X, y, factored=True)
        assert value == same
        np.testing.assert_array_equal(grad.to_vector(), batch.to_vector())
        np.testing.assert_array_equal(grad.inputs[0], X)
        assert [a.shape for a in grad.inputs] == [(1, 5), (1, 9), (1, 17)]
        assert [delta.shape for delta in grad.deltas] == [(1, 9), (1, 17), (1, 3)]
        assert repr(grad) == f"FactoredGradient({net.n_parameters:,} entries, of 1 samples)"


def test_it_stays_what_it_was(make):
    net, X, y = make(4)
    _, grad = net.value_and_grad(X, y, factored=True)
    expected = net.value_and_grad(X, y)[1].to_vector()
    twin = copy.deepcopy(grad)
    net.value_and_grad(2 * X, y, factored=True)
    X[...] = 0
    net.set_parameters(np.zeros(net.n_parameters))
    for each in (grad, twin):
        np.testing.assert_allclose(each.to_vector(), expected, rtol=1e-12, atol=1e-15)


def test_weights_are_formed_once_and_when_taken(make, monkeypatch):
    net, X, y = make(4)
    _, grad = net.value_and_grad(X, y, factored=True)
    formed = []
    kernels = fm.backends.current_kernels()
    form = kernels.dense_backward_weight
    monkeypatch.setattr(
        kernels, "dense_backward_weight", lambda *a: formed.append(a[0].shape[1]) or form(*a)
    )
    grad.sample_norms()
    assert not formed
    assert grad.weights[1] is grad.weights[-2]
    assert formed == [SIZES[1]]
    assert [weight.shape for weight in grad.weights[1:]] == [(17, 9), (3, 17)]
    assert formed == [SIZES[1], SIZES[2]]
    with pytest.raises(IndexError):
        grad.weights[3]


def test_sample_weight(backend, make):
    net, X, y = make(4)
    weights = [1, 0, 2.5, 0.5]
    with fm.use_backend(backend):
        value, grad = net.value_and_grad(X, y, sample_weight=weights)
        same, factored = net.value_and_grad(X, y, sample_weight=weights, factored=True)
        norms = net.gradient_norms(X, y)[[0, 2, 3]]
    assert same == value
    np.testing.assert_allclose(factored.to_vector(), grad.to_vector(), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(factored.sample_norms(), np.array([1, 2.5, 0.5]) / 4 * norms)


def test_what_does_not_fit_is_refused(make):
    net, X, y = make(2)
    for _ in range(2):
        with pytest.raises(ValueError, match="X has 2 features, but the network takes 5"):
            net.value_and_grad(X[:, :2], y, factored=True)
        with pytest.raises(ValueError, match="y"):
            net.value_and_grad(X, y[:1], factored=True)
        net.value_and_grad(X, y, factored=True)

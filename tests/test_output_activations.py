"""Softmax as the last activation: whole rows in the kernels, probabilities for the user."""

from __future__ import annotations

import numpy as np
import pytest

import fastmlp as fm
from fastmlp.kernels import reference
from fastmlp.kernels.catalogue import CODES
from fastmlp.losses import LOSSES

#: Outputs: few, more than a tile, a vector width ± 1, more than a wide tile.
WIDTHS = ((5, 2), (9, 17, 10), (65, 31, 49), (4, 8, 130), (7, 5, 15, 3), (3, 4, 17))

#: Batches: none, the matrix–vector path, small ones, tiles, more than a row block.
N_SAMPLES = (0, 1, 2, 4, 7, 16, 17, 97)

#: Losses that compare probabilities with values.
FITTING = ("quadratic", "mse", "mae", "huber")

every_loss = pytest.mark.parametrize("loss", FITTING)


@pytest.fixture
def make_network(make_problem, dtype):
    """Return the function that draws a network whose last layer is softmax."""

    def make(widths, n_samples=5, loss="mse", **options):
        activations = (*["tanh"] * (len(widths) - 2), "softmax")
        return make_problem(dtype, widths, activations, loss, n_samples, **options)

    return make


@pytest.mark.parametrize("n_threads", [1, 2, 3, 7])
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
@pytest.mark.parametrize("n_samples", N_SAMPLES)
def test_network_kernels(compare, make_network, widths, n_samples, n_threads):
    problem = make_network(widths, n_samples)
    out = np.full((n_samples, widths[-1]), np.nan, problem.dtype)
    grad = np.full_like(problem.parameters, np.nan)
    arguments = problem.arguments("network_forward", n_threads, out=out)
    answer = compare("network_forward", arguments, {"out": None}, problem.n_terms)
    np.testing.assert_allclose(answer["out"].sum(axis=1), 1, rtol=1e-6)
    arguments = problem.arguments("network_gradient", n_threads, grad=grad)
    compare("network_gradient", arguments, {"return": None, "grad": None}, problem.n_terms)


@pytest.mark.parametrize("kernel", ["activation_forward", "activation_backward"])
@pytest.mark.parametrize("n_out", [1, 2, 17, 100])
def test_layer_kernels(compare, rng, dtype, kernel, n_out):
    z, grad = rng.normal(size=(2, 9, n_out)).astype(dtype)
    arguments = {"z": 20 * z}
    if kernel == "activation_backward":
        arguments = {"y_or_z": reference._softmax(z), "grad": grad}
    options = {"activation": CODES["SOFTMAX"], "alpha": 0.0, "out": np.empty_like(z)}
    compare(kernel, arguments | options, {"out": None}, n_out)


@pytest.mark.parametrize("shift", [0, 1e4, -1e4, 1e30])
def test_extreme_logits(kernels, dtype, shift):
    z = np.array([[shift, shift, -np.inf], [0, 200, -200]], dtype)
    y, below = np.empty_like(z), np.empty_like(z)
    kernels.activation_forward(z, CODES["SOFTMAX"], 0.0, y)
    expected = [[0.5, 0.5, 0], [0, 1, 0]]
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-80 if dtype == np.float64 else 1e-30)
    kernels.activation_backward(y, np.ones_like(z), CODES["SOFTMAX"], 0.0, below)
    assert not below.any()  # the sum does not change


def test_nan_stays(kernels, dtype):
    z = np.array([[0, np.nan, 1]], dtype)
    kernels.activation_forward(z, CODES["SOFTMAX"], 0.0, z)
    assert np.isnan(z).all()


@pytest.mark.parametrize("widths", [(4, 3), (4, 5, 3), (4, 5, 6, 3)], ids=str)
@every_loss
def test_the_gradient_is_the_derivative(backend, rng, widths, loss):
    net = fm.MLP.from_sizes(widths, "tanh", "softmax", dtype="float64", seed=rng)
    X, y = rng.normal(size=(5, 4)), rng.dirichlet(np.ones(3), 5)
    with fm.use_backend(backend):
        check = fm.check_gradient(net, X, y, loss, sample_weight=[1, 0, 2, 0.5, 3])
        check.assert_ok()
        assert (check.n_compared, check.n_kinks) == (net.n_parameters + X.size, 0)
        fm.check_gradient(net, X[0], y[0], loss).assert_ok()
        jacobian = net.jacobian(X)
        h = 1e-6 * np.eye(4)
        for k in range(4):
            difference = (net(X + h[k]) - net(X - h[k])) / 2e-6
            np.testing.assert_allclose(jacobian[:, :, k], difference, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("n_samples", [1, 5, 97])
@pytest.mark.parametrize("widths", [(4, 3), (4, 5, 3), (4, 5, 6, 3)], ids=str)
@pytest.mark.parametrize("central", [False, True])
def test_fair_differences(compare, make_problem, widths, n_samples, central):
    activations = (*["tanh"] * (len(widths) - 2), "softmax")
    problem = make_problem(np.float64, widths, activations, "mse", n_samples)
    steps = np.resize([0.1, -0.2, 0.3], len(problem.used))
    options = {"indices": problem.used, "steps": steps, "central": central}
    naive = np.empty(len(steps))
    kernel = "network_difference_gradient"
    reference.network_difference_gradient(**problem.arguments(kernel, out=naive, **options))
    kernel = "network_fair_difference_gradient"
    arguments = problem.arguments(kernel, out=np.full(len(steps), np.nan), **options)
    fair = compare(kernel, arguments, {"out": 10}, problem.n_terms)
    np.testing.assert_allclose(fair["out"], naive, rtol=0, atol=1e-12)


@every_loss
def test_outputs_are_probabilities(backend, dtype, rng, loss):
    net = fm.MLP.from_sizes([6, 20, 5], output_activation="softmax", dtype=dtype, seed=0)
    logits = fm.MLP.from_sizes([6, 20, 5], dtype=dtype, seed=0)
    X, y = rng.normal(size=(30, 6)).astype(dtype), np.eye(5)[rng.integers(5, size=30)]
    tolerance = {"rtol": 1e-6 if dtype == np.float32 else 1e-14}
    with fm.use_backend(backend):
        np.testing.assert_allclose(net(X), fm.softmax(logits(X)), **tolerance)
        np.testing.assert_allclose(net(X[0]), net(X)[0], **tolerance)
        np.testing.assert_array_equal(net.predict(X), net(X))
        before = net.loss(X, y, loss)
        history = net.fit(X, y, loss, fm.Adam(0.02), epochs=30, metrics=["accuracy"], verbose=0)
        assert history["loss"][-1] < net.loss(X, y, loss) * 1.5 < before
        for _ in range(3):  # the quick way, too
            value, grad = net.value_and_grad(X[0], y[0], loss)
        single, grads = net.value_and_grad(X[:1], y[:1], loss)
        assert value == pytest.approx(single, rel=1e-5)
        np.testing.assert_allclose(grad.to_vector(), grads.to_vector(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("loss", [name for name in LOSSES if name not in FITTING])
def test_losses_that_do_not_fit_are_refused(loss):
    net = fm.MLP.from_sizes([3, 4, 2], output_activation="softmax", seed=0)
    with pytest.raises(ValueError, match=f"loss '{loss}' .* 'softmax'.* use 'identity' there"):
        net.loss(np.ones((1, 3)), np.zeros((1, 2)), loss)


def test_softmax_is_for_the_last_layer():
    with pytest.raises(ValueError, match=r"layers\[0\] must not have activation 'softmax'"):
        fm.MLP.from_sizes([3, 4, 2], "softmax")
    with pytest.raises(ValueError, match=r"n_out must be at least 2 .* use 'sigmoid'"):
        fm.Dense(3, 1, "softmax")


def test_a_file_keeps_it(tmp_path):
    net = fm.MLP.from_sizes([3, 4, 2], output_activation="softmax", seed=0)
    net.save(tmp_path / "net")
    assert repr(fm.load(tmp_path / "net")) == repr(net)


def test_the_trace_has_the_jacobian(rng):
    net = fm.MLP.from_sizes([3, 4, 2], output_activation="softmax", dtype="float64", seed=0)
    X, y = rng.normal(size=(5, 3)), np.eye(2)[[0, 1, 1, 0, 1]]
    trace = fm.backprop_trace(net, X, y, "mse")
    last = trace.layers[-1]
    for a, slope in zip(last.a, last.slope, strict=True):
        np.testing.assert_allclose(slope, np.diag(a) - np.outer(a, a), atol=1e-15)
    np.testing.assert_allclose(
        last.grad_weight, net.value_and_grad(X, y, "mse")[1].weights[-1], atol=1e-15
    )
    assert "BP1  δ² = σ'(z²) ∂L/∂a² = " in str(trace)
    assert fm.backprop_trace(net, X[0], y[0], "mse").layers[-1].slope.shape == (2, 2)


@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-12), ("float32", 2e-6)])
@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_probabilities_and_gradients_are_those_of_pytorch(backend, loss, dtype, bound):
    th = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    net = fm.MLP.from_sizes([5, 7, 4], "tanh", "softmax", dtype=dtype, seed=0)
    x = rng.normal(size=(9, 5)).astype(dtype)
    y = rng.dirichlet(np.ones(4), size=9).astype(dtype)
    layers = []
    for W, b in zip(net.weights, net.biases, strict=True):
        layer = th.nn.Linear(*W.T.shape, dtype=getattr(th, dtype))
        layer.weight.data, layer.bias.data = th.tensor(W.copy()), th.tensor(b)
        layers += [layer, th.nn.Tanh()]
    other = th.nn.Sequential(*layers[:-1], th.nn.Softmax(dim=1))
    losses = {"mse": th.nn.MSELoss(), "mae": th.nn.L1Loss(), "huber": th.nn.HuberLoss(delta=0.1)}
    value = losses[loss](other(th.tensor(x)), th.tensor(y))
    value.backward()
    objective = fm.Huber(0.1) if loss == "huber" else loss
    mean, grad = net.value_and_grad(x, y, objective)
    np.testing.assert_allclose(mean, value.item(), rtol=bound)
    for layer, found in zip(layers[::2], grad.weights, strict=True):
        expected = layer.weight.grad.numpy()
        assert np.abs(found - expected).max() <= bound * np.abs(expected).max()

"""The facade's derivatives: what comes out, what is refused, and that PyTorch agrees."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest

import fastmlp as fm
from fastmlp import losses
from fastmlp.activations import ACTIVATIONS
from fastmlp.kernels import catalogue
from fastmlp.losses import LOSSES

SIZES = (3, 7, 5, 4)
#: Each loss by name, and those with parameters with some that are not the usual ones.
OBJECTIVES = (
    *LOSSES.values(),
    fm.Huber(delta=0.6),
    fm.CrossEntropy(label_smoothing=0.2),
    fm.BinaryCrossEntropy(pos_weight=[0.5, 1, 3, 2]),
)


@pytest.fixture
def make(rng, draw_target):
    """Return the function that draws a network, samples and targets."""

    def draw(activation="tanh", loss="mse", n_samples=6, dtype="float64"):
        net = fm.MLP.from_sizes(SIZES, activation, dtype=dtype, seed=rng)
        net.set_parameters(rng.normal(size=net.n_parameters))
        objective = losses.get(loss)
        y = draw_target(rng, objective.row.code, (n_samples, 4), objective.n_targets(4))
        return net, rng.normal(size=(n_samples, 3)), y

    return draw


def results(net, X, y, loss, v):
    """Return each derivative by its method's name."""
    return {
        "input_gradient": net.input_gradient(X, y, loss),
        "jacobian": net.jacobian(X),
        "sample_gradients": net.sample_gradients(X, y, loss),
        "gradient_norms": net.gradient_norms(X, y, loss),
        "hessian_product": net.hessian_product(X, y, v, loss).to_vector(),
    }


def test_shapes_and_dtype(backend, make, dtype):
    net, X, y = make(dtype=dtype)
    n = net.n_parameters
    with fm.use_backend(backend):
        for axis, X_given, y_given in ((6,), X, y), ((), X[0], y[0]), ((1,), X[:1], y[:1]):
            found = results(net, X_given, y_given, "mse", np.ones(n))
            shapes = {
                "input_gradient": (*axis, 3),
                "jacobian": (*axis, 4, 3),
                "sample_gradients": (*axis, n),
                "gradient_norms": axis,
                "hessian_product": (n,),
            }
            for name, value in found.items():
                assert (value.shape, value.dtype) == (shapes[name], dtype), name


def test_they_belong_together(backend, make):
    net, X, y = make(loss="quadratic")
    with fm.use_backend(backend):
        grad = net.value_and_grad(X, y, "quadratic")[1].to_vector()
        each = net.sample_gradients(X, y, "quadratic")
        below = np.einsum("ij,ijk->ik", net(X) - y, net.jacobian(X)) / len(X)
        norms, inputs = net.gradient_norms(X, y, "quadratic"), net.input_gradient(X, y, "quadratic")
    np.testing.assert_allclose(each.mean(axis=0), grad, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(norms, np.linalg.norm(each, axis=1), rtol=1e-12)
    np.testing.assert_allclose(inputs, below, rtol=1e-12, atol=1e-14)


def test_the_hessian_is_symmetric(backend, make, rng):
    net, X, y = make("sigmoid")
    u, v = rng.normal(size=(2, net.n_parameters))
    weights = [1, 0, 2, 0.5, 3, 1]
    with fm.use_backend(backend):
        Hu, Hv = (net.hessian_product(X, y, w, "mse", weights).to_vector() for w in (u, v))
    assert u @ Hv == pytest.approx(v @ Hu, rel=1e-11)


@pytest.mark.parametrize("n_threads", [2, 3])
def test_threads_change_no_bit(backend, make, n_threads, monkeypatch):
    net, X, y = make("silu", n_samples=37)
    v = np.ones(net.n_parameters)
    monkeypatch.setattr(fm.backends, "_threads", fm.backends.Threads(1))
    with fm.use_backend(backend):
        one = results(net, X, y, "mse", v)
        fm.set_num_threads(n_threads, work_per_thread=0)
        several = results(net, X, y, "mse", v)
    for name, value in one.items():
        assert value.tobytes() == several[name].tobytes(), name


def test_workspaces_serve_any_sizes(make):
    net, X, y = make(n_samples=200)
    v = np.ones(net.n_parameters)
    for n in (1, 200, 3):
        fresh = net.astype("float64")
        for name, value in results(net, X[:n], y[:n], "mse", v).items():
            same = results(fresh, X[:n], y[:n], "mse", v)[name]
            assert value.tobytes() == same.tobytes(), name


def test_what_does_not_fit_is_refused(make, monkeypatch):
    net, X, y = make()
    with pytest.raises(ValueError, match="X has 2 features, but the network takes 3"):
        net.jacobian(X[:, :2])
    with pytest.raises(ValueError, match="y has 5 samples, but X has 6 samples"):
        net.gradient_norms(X, y[:5], "mse")
    with pytest.raises(ValueError, match="vector must have shape"):
        net.hessian_product(X, y, np.ones(3), "mse")
    blunt = dataclasses.replace(ACTIVATIONS["tanh"], second_derivative=None)
    monkeypatch.setitem(ACTIVATIONS, "tanh", blunt)
    with pytest.raises(ValueError, match="activation 'tanh' has no second derivative"):
        net.hessian_product(X, X @ np.ones((3, 4)), np.ones(net.n_parameters), "mse")


def test_weights_of_classes(backend, make, rng):
    """They count as weights of samples in a mean; a sample's own loss has none."""
    net, X, _ = make()
    y, v = np.array([0, 1, 2, 3, 1, 0]), rng.normal(size=net.n_parameters)
    by_class = np.array([1, 2, 0.5, 3])
    loss = fm.CrossEntropy(class_weight=by_class)
    with fm.use_backend(backend):
        for name, vectors in ("input_gradient", ()), ("hessian_product", (v,)):
            weighted = getattr(net, name)(X, y, *vectors, loss)
            same = getattr(net, name)(X, y, *vectors, sample_weight=by_class[y])
            if vectors:
                weighted, same = weighted.to_vector(), same.to_vector()
            np.testing.assert_array_equal(weighted, same)
        for name in ("sample_gradients", "gradient_norms"):
            own = getattr(net, name)(X, y, loss)
            np.testing.assert_array_equal(own, getattr(net, name)(X, y))


# --- PyTorch ------------------------------------------------------------------------------


@pytest.fixture
def torch():
    """PyTorch, where it is installed."""
    return pytest.importorskip("torch", reason="parity is checked where PyTorch is installed")


def torch_loss(torch, objective):
    """Return the mean loss of outputs and targets."""
    functional, name = torch.nn.functional, objective.name

    def gaussian_nll(o, t):
        mean, log_variance = o.chunk(2, dim=1)
        # Its gaussian_nll_loss looks at the values, which vmap does not allow.
        return 0.5 * (log_variance + (mean - t).square() * (-log_variance).exp()).mean()

    def pinball(o, t):
        return functional.l1_loss(o, t) / 2  # of the median, the default

    def hinge(o, t):
        return torch.relu(1 - t * o).mean()

    def squared_hinge(o, t):
        return torch.relu(1 - t * o).square().mean()

    def huber(o, t):  # its huber_loss, too, lacks the derivative of a derivative
        distance, delta = (o - t).abs(), objective.delta
        beyond = delta * (distance - delta / 2)
        return torch.where(distance < delta, distance.square() / 2, beyond).mean()

    if name in ("gaussian_nll", "pinball", "hinge", "squared_hinge", "huber"):
        return locals()[name]
    if name == "quadratic":
        return lambda o, t: 0.5 * (o - t).square().sum() / len(o)
    if name == "mse":  # its mse_loss lacks the derivative of a derivative
        return lambda o, t: (o - t).square().mean()
    criterion = {
        "cross_entropy": "cross_entropy",
        "binary_cross_entropy": "binary_cross_entropy_with_logits",
        "mae": "l1_loss",
        "poisson": "poisson_nll_loss",
    }[name]
    options = {}
    if getattr(objective, "pos_weight", None) is not None:
        options["pos_weight"] = torch.tensor(objective.pos_weight)
    if hasattr(objective, "label_smoothing"):
        options["label_smoothing"] = objective.label_smoothing
    return partial(getattr(functional, criterion), **options)


def torch_net(torch, net):
    """Return the function from a vector of parameters and inputs to outputs."""
    functional = torch.nn.functional
    functions = {
        "identity": lambda z: z,
        "hard_sigmoid": lambda z: functional.relu6(z + 3) / 6,  # its own lacks a second derivative
        "hard_swish": functional.hardswish,
        "hard_tanh": functional.hardtanh,
        "gelu_tanh": lambda z: functional.gelu(z, approximate="tanh"),
    }

    def forward(theta, x):
        start = 0
        for layer in net.layers:
            end = start + layer.n_in * layer.n_out
            weight = theta[start:end].reshape(layer.n_out, layer.n_in)
            start = end + layer.n_out
            function = functions.get(layer.activation) or getattr(functional, layer.activation)
            x = function(x @ weight.T + theta[end:start])
        return x

    return forward


@pytest.mark.parametrize("loss", OBJECTIVES, ids=repr)
@pytest.mark.parametrize("activation", [row.name for row in catalogue.ACTIVATIONS])
def test_pytorch_agrees(backend, make, rng, torch, activation, loss):
    net, X, y = make(activation, loss)
    v = rng.normal(size=net.n_parameters)
    forward, criterion = torch_net(torch, net), torch_loss(torch, loss)
    theta, x, t, direction = map(torch.tensor, (net.get_parameters(), X, y, v))

    def risk(theta, x, t):
        return criterion(forward(theta, x), t)

    def risk_of_one(theta, x, t):
        return risk(theta, x[None], t[None])

    func = torch.func
    each = func.vmap(func.grad(risk_of_one), (None, 0, 0))(theta, x, t)
    expected = {
        "input_gradient": func.grad(risk, 1)(theta, x, t),
        "jacobian": func.vmap(func.jacrev(forward, 1), (None, 0))(theta, x),
        "sample_gradients": each,
        "gradient_norms": each.norm(dim=1),
    }
    _, along = func.jvp(lambda at: func.grad(risk)(at, x, t), (theta,), (direction,))
    expected["hessian_product"] = along
    with fm.use_backend(backend):
        found = results(net, X, y, loss, v)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        same = expected[name].numpy()
        scale = np.abs(same).max()
        np.testing.assert_allclose(value, same, rtol=1e-10, atol=1e-10 * scale, err_msg=name)

"""PyTorch computes the same activations, losses and optimizers, to 12 digits."""

from __future__ import annotations

import numpy as np
import pytest

import fastmlp as fm
from fastmlp.kernels.catalogue import CODES

torch = pytest.importorskip("torch", reason="parity with PyTorch is checked where it is installed")
functional = torch.nn.functional

N_SAMPLES, N_OUT = 9, 7
ALPHA = 0.2

ACTIVATIONS = {
    "identity": lambda z: z.clone(),
    "relu": functional.relu,
    "leaky_relu": lambda z: functional.leaky_relu(z, ALPHA),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}

LOSSES = {
    "quadratic": lambda o, t: functional.mse_loss(o, t, reduction="sum") / (2 * N_SAMPLES),
    "mse": functional.mse_loss,
    "cross_entropy": functional.cross_entropy,
    "binary_cross_entropy": functional.binary_cross_entropy_with_logits,
}


def assert_same(actual, expected):
    expected = np.asarray(expected.detach())
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(kernels, rng, name):
    z, grad = rng.normal(size=(2, N_SAMPLES, N_OUT))
    y, below = np.empty_like(z), np.empty_like(z)
    kernels.activation_forward(z, CODES[name.upper()], ALPHA, y)
    kernels.activation_backward(y, grad, CODES[name.upper()], ALPHA, below)
    tensor = torch.tensor(z, requires_grad=True)
    output = ACTIVATIONS[name](tensor)
    output.backward(torch.tensor(grad))
    assert_same(y, output)
    assert_same(below, tensor.grad)


def test_loss(kernels, draw_target, rng, objective):
    name, as_labels = objective["loss"], objective["as_labels"]
    code = CODES[name.upper()]
    output = 3 * rng.normal(size=(N_SAMPLES, N_OUT))
    target = draw_target(rng, code, output.shape)
    labels = rng.integers(N_OUT, size=N_SAMPLES) if as_labels else np.empty(0, np.int64)
    each, grad = np.empty(N_SAMPLES), np.empty_like(output)
    kernels.loss_forward(output, target, labels, code, each)
    kernels.loss_backward(output, target, labels, np.empty(0), code, grad)
    tensor = torch.tensor(output, requires_grad=True)
    value = LOSSES[name](tensor, torch.tensor(labels if as_labels else target))
    value.backward()
    assert_same(each.mean(), value)
    assert_same(grad, tensor.grad)


def test_softmax(kernels, rng):
    z = rng.normal(size=(N_SAMPLES, N_OUT))
    out = np.empty_like(z)
    kernels.softmax_forward(z, out)
    assert_same(out, torch.softmax(torch.tensor(z), dim=1))


N_STEPS = 20


def rate(k):
    return 0.02 / (1 + 0.1 * k)


def beta(k):
    return 0.5 + 0.02 * k


#: Each optimizer, what PyTorch calls it, and options of PyTorch's that change with the step.
#: Its velocity lacks the learning rate: with a schedule it is what "ema" keeps, over 1 − β.
OPTIMIZERS = {
    "SGD": (
        lambda: fm.SGD(0.1, weight_decay=0.02),
        lambda theta: torch.optim.SGD(theta, 0.1, weight_decay=0.02),
        {},
    ),
    "SGD of a schedule": (
        lambda: fm.SGD(rate),
        lambda theta: torch.optim.SGD(theta, rate(0)),
        {"lr": rate},
    ),
    "heavy ball": (
        lambda: fm.SGD(0.1, 0.9, weight_decay=0.02),
        lambda theta: torch.optim.SGD(theta, 0.1, 0.9, weight_decay=0.02),
        {},
    ),
    "heavy ball, dampened": (
        lambda: fm.SGD(0.1, 0.9, dampening=lambda k: 0.4 if k else 0),
        lambda theta: torch.optim.SGD(theta, 0.1, 0.9, dampening=0.4),
        {},
    ),
    "heavy ball of schedules": (
        lambda: fm.SGD(rate, lambda k: beta(k) * rate(k) / rate(k - 1)),
        lambda theta: torch.optim.SGD(theta, rate(0), beta(0)),
        {"lr": rate, "momentum": beta},
    ),
    "ema of a schedule": (
        lambda: fm.SGD(lambda k: rate(k) / 0.1, 0.9, momentum_style="ema", weight_decay=0.02),
        lambda theta: torch.optim.SGD(theta, rate(0), 0.9, weight_decay=0.02),
        {"lr": rate},
    ),
    "nesterov": (
        lambda: fm.SGD(0.1, 0.9, momentum_style="nesterov", weight_decay=0.02),
        lambda theta: torch.optim.SGD(theta, 0.1, 0.9, nesterov=True, weight_decay=0.02),
        {},
    ),
    "Adagrad": (
        lambda: fm.Adagrad(lambda k: 0.1 / (1 + 0.3 * k), 1e-3, 0.02, 0.1),
        lambda theta: torch.optim.Adagrad(theta, 0.1, 0.3, 0.02, 0.1, 1e-3),
        {},
    ),
    "RMSprop": (
        lambda: fm.RMSprop(rate, 0.8, 1e-3, 0.02),
        lambda theta: torch.optim.RMSprop(theta, rate(0), 0.8, 1e-3, 0.02),
        {"lr": rate},
    ),
    "RMSprop with momentum": (
        lambda: fm.RMSprop(rate, 0.8, 1e-3, 0.02, 0.7),
        lambda theta: torch.optim.RMSprop(theta, rate(0), 0.8, 1e-3, 0.02, 0.7),
        {"lr": rate},
    ),
    "RMSprop, centered": (
        lambda: fm.RMSprop(rate, 0.8, 1e-3, 0.02, 0.7, centered=True),
        lambda theta: torch.optim.RMSprop(theta, rate(0), 0.8, 1e-3, 0.02, 0.7, centered=True),
        {"lr": rate},
    ),
    "Adam": (
        lambda: fm.Adam(rate, 0.8, 0.95, 1e-6, 0.02),
        lambda theta: torch.optim.Adam(theta, rate(0), (0.8, 0.95), 1e-6, 0.02),
        {"lr": rate},
    ),
    "AdamW": (
        lambda: fm.AdamW(rate, 0.8, 0.95, 1e-6, 0.2),
        lambda theta: torch.optim.AdamW(theta, rate(0), (0.8, 0.95), 1e-6, 0.2),
        {"lr": rate},
    ),
    "NAdam": (
        lambda: fm.NAdam(rate, 0.8, 0.95, 1e-6, 0.02, 0.3),
        lambda theta: torch.optim.NAdam(theta, rate(0), (0.8, 0.95), 1e-6, 0.02, 0.3),
        {"lr": rate},
    ),
    "NAdam, decoupled": (
        lambda: fm.NAdam(weight_decay=0.2, decoupled_weight_decay=True),
        lambda theta: torch.optim.NAdam(theta, weight_decay=0.2, decoupled_weight_decay=True),
        {},
    ),
    "Adamax": (
        lambda: fm.Adamax(rate, 0.8, 0.95, 1e-3, 0.02),
        lambda theta: torch.optim.Adamax(theta, rate(0), (0.8, 0.95), 1e-3, 0.02),
        {"lr": rate},
    ),
    "defaults of Adagrad": (fm.Adagrad, torch.optim.Adagrad, {}),
    "defaults of RMSprop": (fm.RMSprop, torch.optim.RMSprop, {}),
    "defaults of Adam": (fm.Adam, torch.optim.Adam, {}),
    "defaults of AdamW": (fm.AdamW, torch.optim.AdamW, {}),
    "defaults of NAdam": (fm.NAdam, torch.optim.NAdam, {}),
    "defaults of Adamax": (fm.Adamax, torch.optim.Adamax, {}),
}


@pytest.fixture
def float64_scalars():
    """Have PyTorch keep the products of NAdam in float64, as they are here."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("float64_scalars")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer(kernels, dtype, rng, name):
    make, make_theirs, schedules = OPTIMIZERS[name]
    optimizer, n = make(), int(rng.integers(20, 99))
    row, state = optimizer.row, np.zeros((len(optimizer.row.state), n), dtype)
    for memory, entry in zip(state, row.state, strict=True):
        memory[...] = optimizer._initial(entry)
    parameters = rng.normal(size=n).astype(dtype)
    tensor = torch.tensor(parameters, requires_grad=True)
    theirs = make_theirs([tensor])
    for k, scalars in enumerate(optimizer.coefficients(N_STEPS, row)):
        grad = rng.normal(size=n).astype(dtype)
        kernels.optimizer_step(parameters, grad, state, row.code, scalars)
        theirs.param_groups[0].update({key: f(k) for key, f in schedules.items()})
        tensor.grad = torch.tensor(grad)
        theirs.step()
        expected = tensor.detach().numpy()
        tolerance = {"float32": 2e-6, "float64": 1e-12}[expected.dtype.name]
        error = np.abs(parameters - expected).max() / np.abs(expected).max()
        assert error <= tolerance, f"{error} at step {k}"


def test_average_is_that_of_an_averaged_model(rng):
    x, y = rng.normal(size=(32, 3)), rng.normal(size=(32, 2))
    swa = torch.optim.swa_utils
    for average, function in [
        (fm.ParameterAverage(), None),
        (fm.ParameterAverage(0.8), swa.get_ema_multi_avg_fn(0.8)),
    ]:
        net = fm.MLP.from_sizes([3, 2], dtype="float64", seed=0)
        theirs = torch.nn.Linear(3, 2, dtype=torch.float64)
        averaged = swa.AveragedModel(theirs, multi_avg_fn=function)
        optimizer = fm.SGD(0.1, average=average)
        for _ in range(N_STEPS):
            net.train_step(x, y, "mse", optimizer=optimizer)
            with torch.no_grad():
                theirs.weight[...] = torch.tensor(net.weights[0])
                theirs.bias[...] = torch.tensor(net.biases[0])
            averaged.update_parameters(theirs)
        assert_same(optimizer.averaged(net).weights[0], averaged.module.weight)
        assert_same(optimizer.averaged(net).biases[0], averaged.module.bias)

"""PyTorch computes the same activations, losses and optimizers, to 12 digits."""

from __future__ import annotations

import numpy as np
import pytest

from fastmlp.kernels import catalogue
from fastmlp.kernels.catalogue import CODES

torch = pytest.importorskip("torch", reason="parity with PyTorch is checked where it is installed")
functional = torch.nn.functional

N_SAMPLES, N_OUT = 9, 7
ALPHA = 0.25  # PyTorch's CELU rounds 1/α to float32

ACTIVATIONS = {
    "identity": lambda z: z.clone(),
    "relu": functional.relu,
    "leaky_relu": lambda z: functional.leaky_relu(z, ALPHA),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": functional.silu,
    "elu": lambda z: functional.elu(z, ALPHA),
    "celu": lambda z: functional.celu(z, ALPHA),
    "selu": functional.selu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda z: functional.gelu(z, approximate="tanh"),
    "mish": functional.mish,
    "softplus": lambda z: functional.softplus(z, ALPHA),
    "softsign": functional.softsign,
    "relu6": functional.relu6,
    "hard_tanh": functional.hardtanh,
    # Its own hardsigmoid rounds the derivative 1/6 to float32.
    "hard_sigmoid": lambda z: functional.relu6(z + 3) / 6,
    "hard_swish": functional.hardswish,
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
    row = catalogue.ACTIVATIONS[CODES[name.upper()]]
    kernels.activation_backward(y if row.from_output else z, grad, row.code, ALPHA, below)
    tensor = torch.tensor(z, requires_grad=True)
    output = ACTIVATIONS[name](tensor)
    output.backward(torch.tensor(grad))
    assert_same(y, output)
    assert_same(below, tensor.grad)


@pytest.mark.parametrize("row", catalogue.ACTIVATIONS, ids=lambda row: row.name)
def test_activation_at_edge_values(kernels, dtype, row):
    """Kinks and their neighbourhood, signed zeros, subnormals and large numbers.

    Not NaN and ±inf, where PyTorch has NaN in places of limits, for 0 · inf; what the
    kernels have there is checked without it.
    """
    info = np.finfo(dtype)
    sizes = [0, info.smallest_subnormal, info.tiny, info.eps, 1, 20, 20 / ALPHA, 30, 1e4]
    near_kinks = [kink + step for kink in row.kinks for step in (-1e-3, 0, 1e-3)]
    z = np.array([*sizes, *(-size for size in sizes), *near_kinks], dtype)[None]
    y, below = np.empty_like(z), np.empty_like(z)
    kernels.activation_forward(z, row.code, ALPHA, y)
    known = y if row.from_output else z
    kernels.activation_backward(known, np.ones_like(z), row.code, ALPHA, below)
    tensor = torch.tensor(z, dtype=torch.float64, requires_grad=True)
    output = ACTIVATIONS[row.name](tensor)
    output.sum().backward()
    tolerance = 1e-12 if dtype == np.float64 else 2e-6
    for actual, expected in ((y, output.detach()), (below, tensor.grad)):
        np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


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


#: Coefficients of the kernel at a step counted from 1, and the optimizer of PyTorch. Its
#: velocity has the other sign and lacks the rate: the same steps while the rate is the same.
OPTIMIZERS = {
    "sgd": (
        lambda step: [0.1, 0.02],
        lambda theta: torch.optim.SGD(theta, 0.1, weight_decay=0.02),
    ),
    "momentum": (
        lambda step: [0.1, 0.02, 0.9],
        lambda theta: torch.optim.SGD(theta, 0.1, momentum=0.9, weight_decay=0.02),
    ),
    "adam": (
        lambda t: [0.01, 0.02, 0.8, 0.95, 1e-6, 1 - 0.8**t, 1 - 0.95**t, 1 - 0.8, 1 - 0.95],
        lambda theta: torch.optim.Adam(theta, 0.01, (0.8, 0.95), 1e-6, weight_decay=0.02),
    ),
}


@pytest.mark.parametrize("row", catalogue.OPTIMIZERS, ids=lambda row: row.name)
def test_optimizer(kernels, rng, row):
    coefficients, make_optimizer = OPTIMIZERS[row.name]
    parameters, state = rng.normal(size=33), np.zeros((len(row.state), 33))
    tensor = torch.tensor(parameters, requires_grad=True)
    optimizer = make_optimizer([tensor])
    for step in range(1, 6):
        grad = rng.normal(size=33)
        scalars = np.array(coefficients(step))
        kernels.optimizer_step(parameters, grad, state, row.code, scalars)
        tensor.grad = torch.tensor(grad)
        optimizer.step()
        assert_same(parameters, tensor)

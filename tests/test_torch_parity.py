"""PyTorch computes the same activations, losses and optimizers, to 12 digits."""

from __future__ import annotations

import numpy as np
import pytest

import fastmlp as fm
from fastmlp.kernels import catalogue
from fastmlp.kernels.catalogue import CODES

torch = pytest.importorskip("torch", reason="parity with PyTorch is checked where it is installed")
functional = torch.nn.functional

N_SAMPLES, N_OUT = 9, 7
ALPHA = 0.25  # PyTorch's CELU rounds 1/α to float32
NO_LABELS = np.empty(0, np.int64)

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


def gaussian_nll(o, t):
    """PyTorch takes the variance, and floors it, here at 0."""
    mean, log_variance = o.chunk(2, dim=1)
    return functional.gaussian_nll_loss(mean, t, log_variance.exp(), eps=0)


def margin_of_signs(power):
    """PyTorch has hinges of labels only."""
    return lambda o, t: torch.relu(1 - t * o).pow(power).mean()


#: By name, and whether targets are labels where it matters.
LOSSES = {
    "quadratic": lambda o, t: functional.mse_loss(o, t, reduction="sum") / (2 * len(o)),
    "mse": functional.mse_loss,
    "mae": functional.l1_loss,
    "cross_entropy": functional.cross_entropy,
    "binary_cross_entropy": functional.binary_cross_entropy_with_logits,
    "poisson": functional.poisson_nll_loss,
    "gaussian_nll": gaussian_nll,
    "hinge rows": margin_of_signs(1),
    "hinge labels": functional.multi_margin_loss,
    "squared_hinge rows": margin_of_signs(2),
    "squared_hinge labels": lambda o, t: functional.multi_margin_loss(o, t, p=2),
}


def loss_of_torch(objective, parameters):
    """Return PyTorch's function of output and target."""
    name = objective["loss"]
    if name == "cross_entropy":
        (smoothing,) = parameters
        return lambda o, t: functional.cross_entropy(o, t, label_smoothing=smoothing)
    if name == "binary_cross_entropy" and len(parameters):
        weight = torch.tensor(parameters)
        return lambda o, t: functional.binary_cross_entropy_with_logits(
            o, t, pos_weight=weight.to(o.dtype)
        )
    if name == "huber":
        return lambda o, t: functional.huber_loss(o, t, delta=parameters[0])
    form = "labels" if objective["as_labels"] else "rows"
    return LOSSES.get(name) or LOSSES[f"{name} {form}"]


TOLERANCE = {np.float32: 2e-6, np.float64: 1e-12}

#: Losses, whether of labels, and outputs where fastmlp says something else on purpose.
DEVIATIONS = {
    # A class of probability 0 costs nothing even with logit −∞, where PyTorch has 0 · ∞.
    ("cross_entropy", False, -np.inf),
    # −log of the probability 0 is ∞, where PyTorch has ∞ − ∞.
    ("binary_cross_entropy", False, -np.inf),
    # NaN stays, so that training that has diverged ends; PyTorch's comparisons drop it.
    ("mae", False, np.nan),
    ("hinge", True, np.nan),
    ("squared_hinge", True, np.nan),
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


@pytest.fixture
def compare_loss(kernels, draw_target, loss_parameters, rng, dtype, objective):
    """Return the function that compares a loss and its gradient with PyTorch's."""
    name, as_labels = objective["loss"], objective["as_labels"]
    if name == "pinball":
        pytest.skip("PyTorch has no pinball loss")

    def compare(output, target):
        output, target = output.astype(dtype), target.astype(dtype)
        labels = rng.integers(output.shape[1], size=len(output)) if as_labels else NO_LABELS
        parameters = loss_parameters(CODES[name.upper()], output.shape[1], objective["plain"])
        given = {"target": target, "labels": labels, "loss": CODES[name.upper()]}
        given |= {"loss_parameters": parameters}
        each, grad = np.empty(len(output), dtype), np.empty_like(output)
        kernels.loss_forward(output, **given, out=each)
        kernels.loss_backward(output, **given, sample_weight=np.empty(0, dtype), out=grad)
        tensor = torch.tensor(output, requires_grad=True)
        of_torch = loss_of_torch(objective, parameters)
        value = of_torch(tensor, torch.tensor(labels if as_labels else target))
        value.backward()
        for actual, expected in ((each.mean(dtype=np.float64), value), (grad, tensor.grad)):
            expected = np.asarray(expected.detach())
            # A slope such as p − t is as exact as p.
            size = np.abs(expected[np.isfinite(expected)]).max(initial=1 / len(output))
            tolerance = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype] * size}
            np.testing.assert_allclose(actual, expected, **tolerance)

    return compare


@pytest.mark.parametrize("shape", [(9, 6), (1, 2), (64, 48)], ids=str)
@pytest.mark.parametrize("scale", [1, 3, 30])
def test_loss(compare_loss, draw_target, rng, objective, shape, scale):
    if objective["loss"] in ("poisson", "gaussian_nll"):
        scale = min(scale, 3)  # beside exp(90) nothing else shows
    target = draw_target(rng, CODES[objective["loss"].upper()], shape)
    compare_loss(scale * rng.normal(size=shape), target)


@pytest.mark.parametrize(
    "edge", [0, 1e-30, 0.7, -0.7, 1, -1, 80, -80, 1e4, -1e4, np.inf, -np.inf, np.nan], ids=str
)
def test_loss_at_edge_values(compare_loss, draw_target, rng, dtype, objective, edge):
    name = objective["loss"]
    smoothed = name == "cross_entropy" and not objective["plain"]  # no target is 0
    if (name, objective["as_labels"], edge) in DEVIATIONS and not smoothed:
        pytest.skip("differs on purpose")
    if name == "poisson" and edge == 80 and dtype == np.float32:
        pytest.skip("a few ulp of exp(80) are more")
    target = draw_target(rng, CODES[name.upper()], (6, 4))
    output = rng.normal(size=(6, 4))
    output[:, 0] = edge
    if name in ("quadratic", "mse", "mae", "huber"):
        target[:, 0] = 0  # the kinks are at 0 and at ±δ
    elif name == "cross_entropy":
        target = np.eye(4)[rng.integers(4, size=6)]
    compare_loss(output, target)


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

"""Layers that are not dense: against the reference, differences, PyTorch and by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fastmlp.kernels import arena, reference
from fastmlp.kernels.arena import LayerShape
from fastmlp.kernels.catalogue import ACTIVATIONS, CODES, LOSSES, OPTIMIZERS, SETTING_COLUMNS

WIDTH = 70  # more than a block of columns, no multiple of a vector

KINDS = (
    "dense_without_bias",
    "elementwise",
    "dropout",
    "prelu",
    "shared_prelu",
    "layer_norm",
    "batch_norm",
    "batch_norm_training",
)
#: In all other derivatives than the gradient a network is in use, not in training.
KINDS_IN_USE = KINDS[:-1]
NORMS = KINDS[-3:]
PLACES = ("first", "middle", "last")

every_kind = pytest.mark.parametrize("kind", KINDS)
every_place = pytest.mark.parametrize("place", PLACES)


def dense(n_in, n_out, activation="identity"):
    return LayerShape(n_in, n_out, CODES[activation.upper()])


def layer(kind, width, activation="identity"):
    """Return the shape of a layer with as many outputs as inputs."""
    code = CODES[activation.upper()]
    if kind == "dense_without_bias":
        return LayerShape(width, width, code, has_bias=False)
    if kind == "elementwise":
        return LayerShape(width, width, code, CODES["ELEMENTWISE"])
    if kind == "shared_prelu":
        return LayerShape(width, width, kind=CODES["PRELU"], n_weights=1)
    return LayerShape(width, width, kind=CODES[kind.upper()], n_weights=width)


def network(kind, place, below="silu"):
    """Return shapes of a network with a layer of some kind in some place."""
    own = layer(kind, WIDTH, "tanh")
    if place == "first":
        return [own, dense(WIDTH, 5, "tanh"), dense(5, 3)]
    if place == "middle":
        return [dense(7, WIDTH, below), own, dense(WIDTH, 3)]
    return [dense(7, 5, "tanh"), dense(5, WIDTH, below), own]


def weights_of(problem, rng, weighted):
    """Return the problem with sample weights, some of them 0, or without."""
    n = len(problem.x) if weighted else 0
    sample_weight = (rng.integers(4, size=n) * rng.uniform(0.5, 1)).astype(problem.dtype)
    return problem.replace(sample_weight=sample_weight)


def training_arguments(problem, batch_size, n_threads, clips=False, optimizer=OPTIMIZERS[1]):
    """Return the arguments of a run over all samples in an order of its own."""
    n = len(problem.x)
    n_steps = -(-n // batch_size)
    coefficients = np.linspace(0.02, 0.1, len(optimizer.coefficients))
    others = {}
    if clips:
        grad = np.full_like(problem.parameters, np.nan)
        others = {"clip_value": 0.2, "clip_norm": 0.5, "grad": grad}
    return problem.arguments(
        "network_train",
        n_threads,
        state=np.zeros((len(optimizer.state), len(problem.parameters)), problem.dtype),
        order=np.random.default_rng(n).permutation(n),
        batch_size=batch_size,
        optimizer=optimizer.code,
        coefficients=np.tile(coefficients, (n_steps, 1)),
        losses=np.full(n_steps, np.nan),
        **others,
    )


def compare_passes(compare, problem, n_threads):
    """Compare loss, gradient and training with the reference."""
    n_terms = problem.n_terms
    arguments = problem.arguments("network_loss", n_threads)
    compare("network_loss", arguments, {"return": None}, n_terms)
    grad = np.full_like(problem.parameters, np.nan)
    arguments = problem.arguments("network_gradient", n_threads, grad=grad)
    compare("network_gradient", arguments, {"return": None, "grad": 1}, n_terms)
    batch_size = max(1, -(-len(problem.x) // 3))
    for clips in (False, True):
        arguments = training_arguments(problem, batch_size, n_threads, clips)
        magnitudes = dict.fromkeys(["parameters", "state", "losses", "grad"][: 3 + clips], 1)
        compare("network_train", arguments, magnitudes, n_terms * (1 + len(arguments["losses"])))


def compare_uses(compare, problem, n_threads):
    """Compare what a network in use computes with the reference."""
    n, dtype = len(problem.x), problem.dtype
    out = np.full((n, problem.n_out), np.nan, dtype)
    arguments = problem.arguments("network_forward", n_threads, out=out)
    compare("network_forward", arguments, {"out": 1}, problem.n_terms)
    out = np.full(problem.x.shape, np.nan, dtype)
    arguments = problem.arguments("network_input_gradient", n_threads, out=out)
    compare("network_input_gradient", arguments, {"return": None, "out": 1}, problem.n_terms)
    size = arena.sample_workspace_size(problem.layers, n, dtype.itemsize, n_threads)
    out = np.full((n, len(problem.parameters)), np.nan, dtype)
    workspace = np.full(size, np.nan, dtype)
    arguments = problem.arguments(
        "network_sample_gradients", n_threads, out=out, workspace=workspace
    )
    compare("network_sample_gradients", arguments, {"out": 1}, problem.n_terms)


# --- Against the reference ----------------------------------------------------------------


@every_place
@every_kind
@pytest.mark.parametrize("n_samples", [0, 1, 2, 3, 9, 40])
def test_kinds(compare, make_layers, dtype, rng, kind, place, n_samples):
    for n_threads in (1, 2, 3):
        weighted = (n_samples // 2 + n_threads) % 2 == 0
        below = "silu" if n_threads == 2 else "tanh"
        problem = make_layers(dtype, network(kind, place, below), n_samples=n_samples)
        problem = weights_of(problem, rng, weighted)
        compare_passes(compare, problem, n_threads)
        if kind in KINDS_IN_USE:
            compare_uses(compare, problem, n_threads)


MIXED = (
    *(layer(kind, WIDTH, "gelu") for kind in KINDS),
    dense(WIDTH, 33, "silu"),
    *(layer(kind, 33, "tanh") for kind in reversed(KINDS)),
    dense(33, 5),
)


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("n_samples", [2, 40])
def test_all_kinds_together(compare, make_layers, n_samples, n_threads):
    problem = make_layers(np.float64, MIXED, n_samples=n_samples)
    compare_passes(compare, problem, n_threads)


def test_a_layer_alone(compare, make_layers, dtype):
    for kind in KINDS:
        problem = make_layers(dtype, [layer(kind, 5, "mish")], n_samples=9)
        compare_passes(compare, problem, 2)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda row: row.name)
def test_every_optimizer(compare, make_layers, optimizer):
    shapes = [
        layer("batch_norm_training", 7),
        dense(7, 19),
        layer("prelu", 19),
        layer("shared_prelu", 19),
        layer("layer_norm", 19),
        layer("dense_without_bias", 19),
    ]
    problem = make_layers(np.float64, shapes, n_samples=20)
    for clips in (False, True):
        arguments = training_arguments(problem, 5, 2, clips, optimizer)
        magnitudes = dict.fromkeys(["parameters", "state", "losses", "grad"][: 3 + clips])
        compare("network_train", arguments, magnitudes, 8 * problem.n_terms)


@every_kind
def test_threads_do_not_change_a_bit(kernels, make_layers, dtype, kind):
    shapes = [dense(64, 257, "tanh"), layer(kind, 257, "tanh"), dense(257, 90), layer(kind, 90)]
    problem = make_layers(dtype, shapes, n_samples=150)
    after = []
    for n_threads in (1, 2, 3, 7):
        copied = problem.replace(parameters=problem.parameters.copy())
        arguments = training_arguments(copied, 75, n_threads, clips=n_threads == 7)
        arguments |= {"clip_value": np.inf, "clip_norm": np.inf}
        kernels.network_train(**arguments)
        after.append(copied.parameters.tobytes() + arguments["losses"].tobytes())
    assert len(set(after)) == 1
    assert not np.array_equal(copied.parameters, problem.parameters)


@every_kind
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite(compare, make_layers, dtype, kind, value):
    problem = make_layers(dtype, network(kind, "middle", "tanh"), n_samples=9)
    problem.x[4, 2] = value
    with np.errstate(invalid="ignore"):
        compare_passes(compare, problem, 1)
        if kind in KINDS_IN_USE:
            out = np.full((9, problem.n_out), np.nan, dtype)
            arguments = problem.arguments("network_forward", out=out)
            out = compare("network_forward", arguments, {"out": None}, problem.n_terms)["out"]
            assert np.isfinite(np.delete(out, 4, axis=0)).all()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "elementwise"])
def test_numbers_that_are_not_finite_alone(compare, make_layers, dtype, kind):
    problem = make_layers(dtype, [layer(kind, 5), dense(5, 2)], n_samples=9)
    problem.x[2, 0], problem.x[3, 1], problem.x[4, 2] = np.nan, np.inf, -np.inf
    with np.errstate(invalid="ignore"):
        arguments = problem.arguments("network_loss")
        compare("network_loss", arguments, {"return": None}, problem.n_terms)
        grad = np.zeros_like(problem.parameters)
        arguments = problem.arguments("network_gradient", grad=grad)
        compare("network_gradient", arguments, {"grad": None}, problem.n_terms)


# --- Against central differences ----------------------------------------------------------


@every_kind
@pytest.mark.parametrize("start", range(len(LOSSES)))
def test_central_differences(kernels, make_layers, kind, start):
    """Every pair of a kind and an activation, of a kind and a loss."""
    for index in range(start, len(ACTIVATIONS), len(LOSSES)):
        activation, loss = ACTIVATIONS[index].name, LOSSES[(index + start) % len(LOSSES)].name
        shapes = [dense(3, 6, activation), layer(kind, 6, activation), dense(6, 4)]
        if index % 2:
            shapes = [layer(kind, 3, activation), dense(3, 4, activation), layer(kind, 4)]
        problem = make_layers(np.float64, shapes, loss, margin=1e-3)
        out, grad = np.full(len(problem.used), np.nan), np.zeros_like(problem.parameters)
        arguments = problem.arguments(
            "network_difference_gradient",
            indices=problem.used,
            steps=np.full(len(out), 6e-6),
            central=True,
            out=out,
        )
        kernels.network_difference_gradient(**arguments)
        kernels.network_gradient(**problem.arguments("network_gradient", grad=grad))
        grad = grad[problem.used]
        np.testing.assert_allclose(out, grad, rtol=0, atol=1e-7 * max(1, np.abs(grad).max()))


@pytest.mark.parametrize("kind", KINDS_IN_USE)
def test_input_gradient_against_differences(kernels, make_layers, kind):
    for place, activation in (("first", "tanh"), ("middle", "silu"), ("last", "silu")):
        shapes = network(kind, place, activation)
        problem = make_layers(np.float64, shapes, n_samples=2, margin=1e-3)
        out = np.full(problem.x.shape, np.nan)
        kernels.network_input_gradient(**problem.arguments("network_input_gradient", out=out))
        for column in range(0, problem.x.shape[1], 9):
            losses = []
            for step in (6e-6, -6e-6):
                moved = problem.x.copy()
                moved[1, column] += step
                arguments = problem.replace(x=moved).arguments("network_loss")
                losses.append(kernels.network_loss(**arguments))
            expected = (losses[0] - losses[1]) / 1.2e-5
            np.testing.assert_allclose(out[1, column], expected, rtol=0, atol=1e-7)


# --- Dropout ------------------------------------------------------------------------------


def masks(kernels, shape, seeds, rate=0.4, dtype=np.float32, n_threads=1, position=0):
    """Return for each seed which of some units dropout keeps in each row."""
    n, n_units = shape
    shapes = [layer("elementwise", n_units)] * position + [layer("dropout", n_units)]
    layers, n_elements = arena.layer_table(shapes, np.dtype(dtype).itemsize)
    settings = np.zeros((len(layers), len(SETTING_COLUMNS)))
    settings[:, CODES["DROP_RATE"]] = rate
    x, kept = np.ones(shape, dtype), []
    size = arena.forward_workspace_size(layers, n, x.itemsize, n_threads)
    for seed in seeds:
        layers[-1, CODES["SEED"]], out = seed, np.full_like(x, np.nan)
        arguments = layers, settings, np.zeros(n_elements, dtype), x, out, np.empty(size, dtype)
        kernels.network_forward(*arguments, n_threads)
        assert set(np.unique(out)) <= {0, dtype(1 / (1 - rate))}
        kept.append(out > 0)
    return kept


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_masks_have_their_rate(kernels, rate):
    (kept,) = masks(kernels, (1000, 300), [7], rate)
    deviation = np.sqrt(rate * (1 - rate) / kept.size)
    assert abs(kept.mean() - (1 - rate)) <= 4.5 * deviation
    for axis in (0, 1):
        deviation = np.sqrt(rate * (1 - rate) / kept.shape[axis])
        assert np.abs(kept.mean(axis=axis) - (1 - rate)).max() <= 5.5 * deviation


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63 - 1, -(2**63), 0x123456789ABCDEF])
def test_masks_are_those_of_the_reference(kernels, dtype, seed):
    for shape, n_threads, position in itertools.product(
        [(1, 1), (3, 70), (97, 33), (300, 5)], [1, 3], [0, 2]
    ):
        others = [seed], 0.3, dtype, n_threads, position
        (actual,), (expected,) = (masks(module, shape, *others) for module in (kernels, reference))
        np.testing.assert_array_equal(actual, expected)


def correlation(a, b):
    return abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) * np.sqrt(a.size)


def test_masks_are_independent(kernels):
    shape = (200, 300)
    seeds = [*range(40), 2**32, 2**33, 2**40, 2**62]
    kept = masks(kernels, shape, seeds)
    for one, other in itertools.combinations(kept, 2):  # seeds, which are also those of steps
        assert correlation(one, other) < 5.5
        assert correlation(one[1:], other[:-1]) < 5.5
        assert correlation(one[:, 1:], other[:, :-1]) < 5.5
    for position in (1, 2, 3):
        (other,) = masks(kernels, shape, [0], position=position)
        assert correlation(kept[0], other) < 4.5
    for mask in (kept[0], kept[0].T):  # rows, then units
        pairs = np.corrcoef(mask) * np.sqrt(mask.shape[1])
        assert np.abs(pairs[~np.eye(len(pairs), dtype=bool)]).max() < 6.5


def test_every_step_has_a_mask_of_its_own(kernels, make_layers, dtype):
    problem = make_layers(dtype, network("dropout", "middle"), n_samples=9)
    arguments = training_arguments(problem, 9, 1, optimizer=OPTIMIZERS[0])
    arguments |= {
        "order": np.tile(np.arange(9), 3),
        "coefficients": np.zeros((3, 2)),
        "losses": np.full(3, np.nan),
    }
    kernels.network_train(**arguments)
    expected = []
    for step in range(3):
        layers = problem.layers.copy()
        layers[:, CODES["SEED"]] += step
        arguments_of_loss = problem.replace(layers=layers).arguments("network_loss")
        expected.append(kernels.network_loss(**arguments_of_loss))
    np.testing.assert_allclose(arguments["losses"], expected, rtol=1e-6)
    assert len(set(expected)) == 3


# --- Batch normalisation ------------------------------------------------------------------


def running_moments(problem):
    """Return a copy of the first layer's running means and variances."""
    layers = reference._layers_of(problem.layers, problem.settings, problem.parameters)
    return next(layers).statistics.astype(np.float64)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_running_moments_follow_the_batches(kernels, make_layers, dtype, weighted, n_threads):
    problem = make_layers(dtype, [layer("batch_norm_training", WIDTH)], n_samples=17)
    weights = np.ones(17)
    if weighted:
        weights = np.random.default_rng(3).integers(3, size=17).astype(float)
        problem = problem.replace(sample_weight=weights.astype(dtype))
    arguments = training_arguments(problem, 4, n_threads, optimizer=OPTIMIZERS[0])
    arguments["coefficients"][:] = 0
    weights[arguments["order"][4:8]] *= not weighted
    arguments["sample_weight"][:] = weights[: len(arguments["sample_weight"])]
    mean, variance = running_moments(problem)
    for step in range(5):
        rows = arguments["order"][4 * step : 4 * step + 4]
        if not weights[rows].any():
            continue
        share = weights[rows] / weights[rows].sum()
        of_batch = share @ problem.x[rows].astype(np.float64)
        squares = share @ (problem.x[rows] - of_batch) ** 2
        lost = (share**2).sum()
        mean += 0.3 * (of_batch - mean)
        variance += 0.3 * (squares / (1 - lost if lost < 1 else 1) - variance)
    kernels.network_train(**arguments)
    expected = np.stack([mean, variance])
    atol = 20 * np.finfo(dtype).eps * np.abs(expected).max()
    np.testing.assert_allclose(running_moments(problem), expected, rtol=0, atol=atol)


def test_running_moments_stay_without_training(kernels, make_layers, dtype):
    problem = make_layers(dtype, [layer("batch_norm_training", WIDTH)], n_samples=9)
    before = problem.parameters.copy()
    kernels.network_loss(**problem.arguments("network_loss"))
    grad = np.zeros_like(before)
    kernels.network_gradient(**problem.arguments("network_gradient", grad=grad))
    np.testing.assert_array_equal(problem.parameters, before)


@every_place
def test_integer_weights_are_repeated_samples(kernels, make_layers, dtype, place):
    problem = make_layers(dtype, network("batch_norm_training", place), n_samples=9)
    repeats = np.arange(9) % 4
    repeated = problem.replace(
        x=np.repeat(problem.x, repeats, axis=0), target=np.repeat(problem.target, repeats, axis=0)
    )
    results = []
    for each in (problem.replace(sample_weight=repeats.astype(dtype)), repeated):
        grad = np.zeros_like(problem.parameters)
        value = kernels.network_gradient(**each.arguments("network_gradient", grad=grad))
        results.append(np.append(grad, value))
    tolerance = 2 * repeated.n_terms * np.finfo(dtype).eps
    np.testing.assert_allclose(*results, rtol=0, atol=tolerance * np.abs(results[0]).max())


# --- Against PyTorch ----------------------------------------------------------------------


@pytest.fixture
def torch():
    """PyTorch, where it is installed."""
    return pytest.importorskip("torch", reason="parity with PyTorch needs PyTorch")


def modules_of_torch(torch, kind, dtype):
    """Return PyTorch's layer of some kind in float64 or float32."""
    kinds = {
        "prelu": lambda: torch.nn.PReLU(WIDTH),
        "shared_prelu": lambda: torch.nn.PReLU(1),
        "layer_norm": lambda: torch.nn.LayerNorm(WIDTH, eps=0.05),
        "batch_norm": lambda: torch.nn.BatchNorm1d(WIDTH, eps=0.05, momentum=0.3).eval(),
        "batch_norm_training": lambda: torch.nn.BatchNorm1d(WIDTH, eps=0.05, momentum=0.3),
    }
    return kinds[kind]().to(torch.from_numpy(np.empty(0, dtype)).dtype)


@pytest.mark.parametrize("kind", ["prelu", "shared_prelu", *NORMS])
@pytest.mark.parametrize("n_samples", [2, 40])
def test_pytorch(kernels, make_layers, torch, dtype, kind, n_samples):
    """Outputs, losses, all gradients, running moments of a dense layer and one of some kind."""
    problem = make_layers(dtype, [dense(7, WIDTH), layer(kind, WIDTH)], n_samples=n_samples)
    tolerance = 1e-12 if dtype == np.float64 else 2e-6

    def assert_same(actual, tensor):
        expected = tensor.detach().numpy()
        limit = tolerance * max(1, np.abs(expected).max())
        np.testing.assert_allclose(actual, expected, rtol=0, atol=limit)

    first, own = reference._layers_of(problem.layers, problem.settings, problem.parameters)
    linear = torch.nn.Linear(7, WIDTH).to(torch.from_numpy(problem.x).dtype)
    module = modules_of_torch(torch, kind, dtype)
    with torch.no_grad():
        linear.weight[:] = torch.tensor(first.weight.T.copy())
        linear.bias[:] = torch.tensor(first.bias)
        module.weight[:] = torch.tensor(own.weight[0])
        if kind in NORMS:
            module.bias[:] = torch.tensor(own.bias)
        if len(own.statistics):
            module.running_mean[:] = torch.tensor(own.statistics[0])
            module.running_var[:] = torch.tensor(own.statistics[1])
    x = torch.tensor(problem.x, requires_grad=True)
    output = module(linear(x))
    value = ((output - torch.tensor(problem.target)) ** 2).sum() / (2 * n_samples)
    value.backward()

    grad = np.zeros_like(problem.parameters)
    mean = kernels.network_gradient(**problem.arguments("network_gradient", grad=grad))
    np.testing.assert_allclose(mean, value.item(), rtol=tolerance)
    stored = list(reference._layers_of(problem.layers, problem.settings, grad))
    assert_same(stored[0].weight.T, linear.weight.grad)
    assert_same(stored[0].bias, linear.bias.grad)
    assert_same(stored[1].weight[0], module.weight.grad)
    if kind in NORMS:
        assert_same(stored[1].bias, module.bias.grad)
    if kind in KINDS_IN_USE:
        out = np.full((n_samples, WIDTH), np.nan, dtype)
        kernels.network_forward(**problem.arguments("network_forward", out=out))
        assert_same(out, output)
        out = np.full((n_samples, 7), np.nan, dtype)
        kernels.network_input_gradient(**problem.arguments("network_input_gradient", out=out))
        assert_same(out, x.grad)
    else:
        arguments = training_arguments(problem, n_samples, 1, optimizer=OPTIMIZERS[0])
        kernels.network_train(**arguments)
        assert_same(own.statistics[0], module.running_mean)
        assert_same(own.statistics[1], module.running_var)

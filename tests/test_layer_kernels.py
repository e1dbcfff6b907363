"""Layer kernels agree with the reference: every size of tail, NaN, ±inf, awkward views."""

from __future__ import annotations

import numpy as np
import pytest

from fastmlp.kernels import arena, reference
from fastmlp.kernels.catalogue import ACTIVATIONS, CODES, LOSSES, OPTIMIZERS

# NaN and ±inf are met on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

ALPHA = 0.2  # differs from every default
NO_LABELS = np.empty(0, np.int64)

#: Lengths around the vector widths of all instruction sets and around the panel's 32.
LENGTHS = (0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 65)

#: (n_samples, n_in, n_out): each length in each place; more than a row block; long sums.
SIZES = [
    *[(n, 7, 9) for n in LENGTHS],
    *[(5, n, 9) for n in LENGTHS],
    *[(5, 7, n) for n in LENGTHS],
    *[(0, 0, 0), (1, 1, 1), (97, 33, 40), (200, 17, 19), (13, 300, 33), (100, 300, 1)],
]
EDGE_SIZE = (23, 24, 25)  # more rows in each matrix than there are edge values
SHAPES = [*[(n, 9) for n in LENGTHS], *[(5, n) for n in LENGTHS], (97, 300)]

#: One unit, rows that end within every vector, more than a row block.
FEW_SHAPES = [(5, 1), (7, 33), (97, 47)]

#: Every scalar function in a few shapes, and every shape with a few of those: the loops
#: around them are alike. One takes y, with α and without exp, and one z.
ACTIVATION_SHAPES = [
    *((row.name, shape) for row in ACTIVATIONS for shape in FEW_SHAPES),
    *((name, shape) for name in ("leaky_relu", "mish") for shape in SHAPES),
]

every_activation = pytest.mark.parametrize(
    "activation", [pytest.param(row.code, id=row.name) for row in ACTIVATIONS]
)
every_optimizer = pytest.mark.parametrize(
    "optimizer", [pytest.param(row, id=row.name) for row in OPTIMIZERS]
)
every_size = pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
every_activation_or_shape = pytest.mark.parametrize(
    ("activation", "shape"),
    [
        pytest.param(CODES[name.upper()], shape, id=f"{name}-{shape[0]}x{shape[1]}")
        for name, shape in ACTIVATION_SHAPES
    ],
)


def normal(rng, dtype, *shape):
    """Return random numbers of the order of 1."""
    return rng.normal(size=shape).astype(dtype)


def unwritten(dtype, *shape):
    """Return an output that no kernel may read."""
    return np.full(shape, np.nan, dtype)


def edge_values(dtype):
    """Return values at which arithmetic changes its rules."""
    info = np.finfo(dtype)
    small = [info.smallest_subnormal, info.tiny / 3, info.tiny, info.eps]
    positive = [0, *small, 1, 30, 95, info.max / 64]  # exp(-95) is subnormal in float32
    return np.array([np.nan, *positive, np.inf, *(-value for value in positive), -np.inf], dtype)


def with_edges(array):
    """Return a copy with one edge value in each row, at another column in each."""
    edges = edge_values(array.dtype)
    result = array.copy()
    if result.size:
        rows = np.arange(len(result))
        result[rows, (3 * rows) % result.shape[1]] = np.resize(edges, len(rows))
    return result


# --- Activations --------------------------------------------------------------------------


def activate(z, activation):
    """Return σ(z) by the reference."""
    out = np.empty_like(z)
    reference.activation_forward(z, activation, ALPHA, out)
    return out


def known(z, activation):
    """Return what the derivative at z is taken from: y or z, as the catalogue says."""
    return activate(z, activation) if ACTIVATIONS[activation].from_output else z


def compare_activation(compare, z, activation):
    slope = np.empty_like(z)
    ones = np.ones_like(z)
    reference.activation_backward(known(z, activation), ones, activation, ALPHA, slope)
    arguments = {"z": z, "activation": activation, "alpha": ALPHA, "out": np.full_like(z, np.nan)}
    magnitude = np.abs(np.nan_to_num(z * slope, posinf=0, neginf=0))  # z may be off by an ulp
    compare("activation_forward", arguments, {"out": magnitude}, 0)


def compare_activation_backward(compare, y_or_z, grad, activation):
    arguments = {"y_or_z": y_or_z, "grad": grad, "activation": activation, "alpha": ALPHA}
    arguments["out"] = np.full_like(grad, np.nan)
    compare("activation_backward", arguments, {"out": np.abs(grad)}, 0)


@every_activation_or_shape
def test_activation_forward(compare, rng, dtype, activation, shape):
    z = 3 * normal(rng, dtype, *shape)
    compare_activation(compare, z, activation)


@every_activation_or_shape
def test_activation_backward(compare, rng, dtype, activation, shape):
    y_or_z = known(normal(rng, dtype, *shape), activation)
    compare_activation_backward(compare, y_or_z, normal(rng, dtype, *shape), activation)


@every_activation
def test_activation_at_edge_values(compare, dtype, activation):
    compare_activation(compare, np.resize(edge_values(dtype), (5, 33)), activation)


@every_activation
def test_activation_backward_at_edge_values(compare, dtype, activation):
    edges = edge_values(dtype)
    y_or_z, grad = np.meshgrid(known(edges, activation), edges, indexing="ij")
    compare_activation_backward(compare, y_or_z, grad, activation)


#: σ(−inf), σ(inf), σ'(−inf) and σ'(inf): the limits, also where they are of the form 0 · inf.
SELU_LIMIT = -1.0507009873554805 * 1.6732632423543772
LIMITS = {
    "identity": (-np.inf, np.inf, 1, 1),
    "relu": (0, np.inf, 0, 1),
    "leaky_relu": (-np.inf, np.inf, ALPHA, 1),
    "sigmoid": (0, 1, 0, 0),
    "tanh": (-1, 1, 0, 0),
    "silu": (0, np.inf, 0, 1),
    "elu": (-ALPHA, np.inf, 0, 1),
    "celu": (-ALPHA, np.inf, 0, 1),
    "selu": (SELU_LIMIT, np.inf, 0, 1.0507009873554805),
    "gelu": (0, np.inf, 0, 1),
    "gelu_tanh": (0, np.inf, 0, 1),
    "mish": (0, np.inf, 0, 1),
    "softplus": (0, np.inf, 0, 1),
    "softsign": (-1, 1, 0, 0),
    "relu6": (0, 6, 0, 0),
    "hard_tanh": (-1, 1, 0, 0),
    "hard_sigmoid": (0, 1, 0, 0),
    "hard_swish": (0, np.inf, 0, 1),
}


@pytest.mark.parametrize("name", LIMITS)
def test_activation_at_infinity(kernels, dtype, name):
    row = next(row for row in ACTIVATIONS if row.name == name)
    z = np.array([[-np.inf, np.inf]], dtype)
    y, slope = np.empty_like(z), np.empty_like(z)
    kernels.activation_forward(z, row.code, ALPHA, y)
    known = y if row.from_output else z
    kernels.activation_backward(known, np.ones_like(z), row.code, ALPHA, slope)
    tolerance = 2 * np.finfo(dtype).eps
    np.testing.assert_allclose(np.append(y, slope), LIMITS[name], tolerance, tolerance)


@every_activation
def test_activation_of_nan_is_nan(kernels, dtype, activation):
    z = np.full((1, 17), np.nan, dtype)
    kernels.activation_forward(z, activation, ALPHA, z)
    assert np.isnan(z).all()


@every_activation
def test_activation_in_place(kernels, rng, dtype, activation):
    z, grad = normal(rng, dtype, 5, 33), normal(rng, dtype, 5, 33)
    y, below = unwritten(dtype, 5, 33), unwritten(dtype, 5, 33)
    kernels.activation_forward(z, activation, ALPHA, y)
    kernels.activation_backward(y, grad, activation, ALPHA, below)
    kernels.activation_forward(z, activation, ALPHA, z)
    kernels.activation_backward(y, grad, activation, ALPHA, grad)
    np.testing.assert_array_equal(z, y)
    np.testing.assert_array_equal(grad, below)


def test_unit_that_is_off_passes_nothing_on(kernels, dtype):
    y, grad = np.zeros((1, 4), dtype), np.array([[np.nan, np.inf, -np.inf, 1]], dtype)
    kernels.activation_backward(y, grad, CODES["RELU"], ALPHA, grad)
    np.testing.assert_array_equal(grad, np.zeros((1, 4)))


@every_shape
def test_softmax_forward(compare, rng, dtype, shape):
    z = 3 * normal(rng, dtype, *shape)
    arguments = {"z": z, "out": unwritten(dtype, *shape)}
    compare("softmax_forward", arguments, {"out": 1 + largest(z)}, shape[1])


@pytest.mark.parametrize("shift", [0, 1e4, -1e4, np.inf, -np.inf, np.nan], ids=str)
def test_softmax_at_extreme_logits(compare, rng, dtype, shift):
    z = normal(rng, dtype, 9, 9)
    z[:, 2] += dtype(shift)
    z[0] = shift
    arguments = {"z": z, "out": unwritten(dtype, 9, 9)}
    compare("softmax_forward", arguments, {"out": 1 + largest(z)}, 9)


def test_softmax_in_place(kernels, rng, dtype):
    z, out = normal(rng, dtype, 5, 33), unwritten(dtype, 5, 33)
    kernels.softmax_forward(z, out)
    kernels.softmax_forward(z, z)
    np.testing.assert_array_equal(z, out)


# --- Dense layers -------------------------------------------------------------------------


def dense_forward_arguments(rng, dtype, size, activation, n_threads=1):
    n_samples, n_in, n_out = size
    return {
        "x": normal(rng, dtype, n_samples, n_in),
        "weight": normal(rng, dtype, n_in, n_out),
        "bias": normal(rng, dtype, n_out),
        "activation": activation,
        "alpha": ALPHA,
        "out": unwritten(dtype, n_samples, n_out),
        "workspace": unwritten(dtype, arena.panel_size(n_in, n_threads)),
        "n_threads": n_threads,
    }


def dense_backward_input_arguments(rng, dtype, size, activation, n_threads=1):
    n_samples, n_in, n_out = size
    return {
        "delta": normal(rng, dtype, n_samples, n_out),
        "weight": normal(rng, dtype, n_in, n_out),
        "y_or_z": known(normal(rng, dtype, n_samples, n_in), activation),
        "activation": activation,
        "alpha": ALPHA,
        "out": unwritten(dtype, n_samples, n_in),
        "workspace": unwritten(dtype, arena.panel_size(n_out, n_threads)),
        "n_threads": n_threads,
    }


def dense_backward_weight_arguments(rng, dtype, size, n_threads=1):
    n_samples, n_in, n_out = size
    return {
        "x": normal(rng, dtype, n_samples, n_in),
        "delta": normal(rng, dtype, n_samples, n_out),
        "grad_weight": unwritten(dtype, n_in, n_out),
        "grad_bias": unwritten(dtype, n_out),
        "workspace": unwritten(dtype, arena.panel_size(n_samples, n_threads)),
        "n_threads": n_threads,
    }


def batch_and_single(kernel, arguments):
    """Yield a kernel with its arguments, then its twin for one sample with the first sample's."""
    yield kernel, arguments
    batched = [name for name in ("x", "y_or_z", "delta", "out") if name in arguments]
    if len(arguments[batched[0]]):
        rest = {k: v for k, v in arguments.items() if k not in ("workspace", "n_threads")}
        yield f"{kernel}_single", rest | {name: arguments[name][0] for name in batched}


def compare_dense_forward(compare, arguments):
    for kernel, given in batch_and_single("dense_forward", arguments):
        x, weight, bias = (np.abs(given[name]) for name in ("x", "weight", "bias"))
        magnitude = 2 + 2 * (x @ weight + bias)  # |σ(z)| ≤ 2 + 2|z|
        compare(kernel, given, {"out": magnitude}, len(weight))


def compare_dense_backward_input(compare, arguments):
    for kernel, given in batch_and_single("dense_backward_input", arguments):
        delta, weight = np.abs(given["delta"]), np.abs(given["weight"])
        magnitude = 2 * delta @ weight.T  # |σ'(z)| ≤ 2
        compare(kernel, given, {"out": magnitude}, weight.shape[1])


def compare_dense_backward_weight(compare, arguments):
    for kernel, given in batch_and_single("dense_backward_weight", arguments):
        x, delta = (np.abs(np.atleast_2d(given[name])) for name in ("x", "delta"))
        magnitudes = {"grad_weight": x.T @ delta, "grad_bias": delta.sum(axis=0)}
        compare(kernel, given, magnitudes, len(x))


@every_size
def test_dense_forward(compare, rng, dtype, size):
    for n_threads in (1, 3):
        arguments = dense_forward_arguments(rng, dtype, size, CODES["LEAKY_RELU"], n_threads)
        compare_dense_forward(compare, arguments)


@every_size
def test_dense_backward_input(compare, rng, dtype, size):
    for n_threads in (1, 3):
        arguments = dense_backward_input_arguments(rng, dtype, size, CODES["LEAKY_RELU"], n_threads)
        compare_dense_backward_input(compare, arguments)


@every_size
def test_dense_backward_weight(compare, rng, dtype, size):
    for n_threads in (1, 3):
        arguments = dense_backward_weight_arguments(rng, dtype, size, n_threads)
        compare_dense_backward_weight(compare, arguments)


@every_activation
def test_dense_with_every_activation(compare, rng, dtype, activation):
    size = (13, 31, 33)
    compare_dense_forward(compare, dense_forward_arguments(rng, dtype, size, activation))
    arguments = dense_backward_input_arguments(rng, dtype, size, activation)
    compare_dense_backward_input(compare, arguments)


@pytest.mark.parametrize("edged", ["x", "weight", "both"])
def test_dense_forward_at_edge_values(compare, rng, dtype, edged):
    arguments = dense_forward_arguments(rng, dtype, EDGE_SIZE, CODES["IDENTITY"])
    arguments["x"][:, ::4] = 0  # must not hide a weight: 0 · ∞ is NaN
    for name in ["x", "weight"] if edged == "both" else [edged]:
        arguments[name] = with_edges(arguments[name])
    compare_dense_forward(compare, arguments)


@every_activation
def test_dense_forward_with_edge_values_in_the_bias(compare, rng, dtype, activation):
    arguments = dense_forward_arguments(rng, dtype, EDGE_SIZE, activation)
    arguments["bias"] = np.resize(edge_values(dtype), EDGE_SIZE[2])
    compare_dense_forward(compare, arguments)


@pytest.mark.parametrize("edged", ["delta", "weight"])
@every_activation
def test_dense_backward_input_at_edge_values(compare, rng, dtype, edged, activation):
    arguments = dense_backward_input_arguments(rng, dtype, EDGE_SIZE, activation)
    arguments["delta"][:, ::4] = 0
    arguments[edged] = with_edges(arguments[edged])
    compare_dense_backward_input(compare, arguments)


@pytest.mark.parametrize("edged", ["x", "delta"])
def test_dense_backward_weight_at_edge_values(compare, rng, dtype, edged):
    arguments = dense_backward_weight_arguments(rng, dtype, EDGE_SIZE)
    arguments[edged] = with_edges(arguments[edged])
    compare_dense_backward_weight(compare, arguments)


# --- Losses -------------------------------------------------------------------------------


def largest(values):
    """Return max |v| of each row as a column, NaN and ±inf left out."""
    finite = np.where(np.isfinite(values), np.abs(values), 0)
    return finite.max(axis=1, keepdims=True, initial=0)


@pytest.fixture
def draw_loss(draw_target, loss_parameters, rng, dtype, objective):
    """Return the function that draws what a loss compares outputs with."""
    code = CODES[objective["loss"].upper()]

    def draw(output):
        """Return target, labels, code and parameters; the target of labels is not to be read."""
        n_samples, n_out = output.shape
        target = draw_target(rng, code, output.shape).astype(dtype)
        labels = NO_LABELS
        if objective["as_labels"]:
            target, labels = target * np.nan, rng.integers(n_out, size=n_samples)
        parameters = loss_parameters(code, n_out, objective["plain"])
        return {
            "target": target, "labels": labels, "loss": code, "loss_parameters": parameters
        }  # fmt: skip

    return draw


def outputs_for(objective, rng, dtype, n_samples, n_out):
    """Return random outputs: an even number where half of them are variances."""
    n_out += n_out % 2 if objective["loss"] == "gaussian_nll" else 0
    return normal(rng, dtype, n_samples, n_out)


def compare_loss(compare, output, drawn, sample_weight):
    """Compare a loss and its derivative; log Σ exp(oⱼ) is as exact as the largest |oⱼ|.

    Where a derivative multiplies numbers of the size of L, it is as exact as that.
    """
    dtype, n_out = output.dtype, output.shape[1]
    given = {"output": output} | drawn
    row = (1 + largest(output)) * (1 if drawn["labels"].size else 1 + largest(drawn["target"]))
    name = LOSSES[drawn["loss"]].name
    if name in ("poisson", "gaussian_nll"):
        row = row * np.exp(largest(np.clip(output, -30, 30)))
    if name in ("gaussian_nll", "squared_hinge"):
        row = row * row
    out = unwritten(dtype, len(output))
    compare("loss_forward", given | {"out": out}, {"out": row[:, 0]}, n_out)
    given |= {"sample_weight": sample_weight, "out": unwritten(dtype, *output.shape)}
    compare("loss_backward", given, {"out": row}, n_out)


def check_loss(compare, draw_loss, rng, dtype, objective, shape):
    output = 2 * outputs_for(objective, rng, dtype, *shape)
    compare_loss(compare, output, draw_loss(output), np.empty(0, dtype))


@pytest.mark.parametrize("shape", FEW_SHAPES, ids=str)
def test_every_loss(compare, draw_loss, rng, dtype, objective, shape):
    check_loss(compare, draw_loss, rng, dtype, objective, shape)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape[1]], ids=str)
@pytest.mark.parametrize(
    "objective",
    [("cross_entropy", False, False), ("cross_entropy", True, False)],
    ids=["cross_entropy-rows", "cross_entropy-labels"],
    indirect=True,
)
def test_loss_of_every_shape(compare, draw_loss, rng, dtype, objective, shape):
    check_loss(compare, draw_loss, rng, dtype, objective, shape)


@pytest.mark.parametrize("share_of_zeros", [0, 0.5, 1])
def test_loss_with_sample_weight(compare, draw_loss, rng, dtype, objective, share_of_zeros):
    sample_weight = 3 * rng.random(33).astype(dtype)
    sample_weight[: round(33 * share_of_zeros)] = 0
    output = outputs_for(objective, rng, dtype, 33, 9)
    compare_loss(compare, output, draw_loss(output), sample_weight)


def test_sample_of_weight_zero_does_not_count(kernels, draw_loss, rng, dtype, objective):
    output = outputs_for(objective, rng, dtype, 3, 5)
    output[1] = np.nan
    drawn = draw_loss(output)
    for weights in ([2, 0, 1], [0, 0, 0]):
        out, sample_weight = unwritten(dtype, *output.shape), np.array(weights, dtype)
        kernels.loss_backward(output, **drawn, sample_weight=sample_weight, out=out)
        assert np.isfinite(out).all()
        assert out.any(axis=1).tolist() == [weight > 0 for weight in weights]


def test_loss_at_edge_values(compare, draw_loss, rng, dtype, objective):
    moderate = edge_values(dtype)
    moderate = moderate[~(np.abs(moderate) > 1e4) | np.isinf(moderate)]  # squares stay finite
    output = outputs_for(objective, rng, dtype, 3 * len(moderate), 9)
    rows, n_out = np.arange(len(output)), output.shape[1]
    output[rows, rows % n_out] = np.resize(moderate, len(output))
    output = np.vstack([output, [[value] * n_out for value in moderate]]).astype(dtype)
    drawn = draw_loss(output)
    if LOSSES[drawn["loss"]].target.endswith("probabilities"):
        drawn["target"][::2] = np.eye(n_out)[np.arange(len(output))[::2] % n_out]
    compare_loss(compare, output, drawn, np.empty(0, dtype))


@pytest.mark.parametrize("as_labels", [False, True], ids=["rows", "labels"])
def test_cross_entropy_of_extreme_logits_is_finite(kernels, dtype, as_labels):
    output = np.array([[1e4, -1e4, 0], [1e4, -1e4, 0], [3, -np.inf, -np.inf]], dtype)
    labels = np.array([0, 1, 0])
    target = np.eye(3, dtype=dtype)[labels]
    labels = labels if as_labels else NO_LABELS
    each, grad = unwritten(dtype, 3), unwritten(dtype, 3, 3)
    loss, parameters, no_weights = CODES["CROSS_ENTROPY"], np.zeros(1), np.empty(0, dtype)
    kernels.loss_forward(output, target, labels, loss, parameters, each)
    np.testing.assert_array_equal(each, [0, 2e4, 0])
    kernels.loss_backward(output, target, labels, no_weights, loss, parameters, grad)
    np.testing.assert_array_equal(3 * grad, [[0, 0, 0], [1, -1, 0], [0, 0, 0]])


def test_binary_cross_entropy_of_extreme_logits_is_finite(kernels, dtype):
    output = np.array([[1e4], [1e4], [-1e4], [-1e4], [0]], dtype)
    target = np.array([[1], [0], [1], [0], [0.5]], dtype)
    each, grad = unwritten(dtype, 5), unwritten(dtype, 5, 1)
    loss, parameters, no_weights = CODES["BINARY_CROSS_ENTROPY"], np.empty(0), np.empty(0, dtype)
    kernels.loss_forward(output, target, NO_LABELS, loss, parameters, each)
    np.testing.assert_allclose(each, [0, 1e4, 1e4, 0, np.log(2)], rtol=4 * np.finfo(dtype).eps)
    kernels.loss_backward(output, target, NO_LABELS, no_weights, loss, parameters, grad)
    np.testing.assert_allclose(5 * grad[:, 0], [0, 1, -1, 0, 0], rtol=4 * np.finfo(dtype).eps)


# --- Optimizers ---------------------------------------------------------------------------


def optimizer_arguments(rng, dtype, row, n, n_threads=1):
    """Return random parameters, gradient and state, no coefficient at 0 or 1."""
    return {
        "parameters": normal(rng, dtype, n),
        "grad": normal(rng, dtype, n),
        "state": rng.uniform(0.5, 1, (len(row.state), n)).astype(dtype),
        "optimizer": row.code,
        "coefficients": np.linspace(0.2, 0.8, len(row.coefficients)),
        "n_threads": n_threads,
    }


def compare_step(compare, arguments):
    """Compare one step; its sums have terms of the order of the finite values it reads."""
    read = np.abs([arguments["parameters"], arguments["grad"], *arguments["state"]])
    magnitude = 1 + np.where(np.isfinite(read), read, 0).max(axis=0)
    magnitudes = {"parameters": magnitude, "state": magnitude}
    return compare("optimizer_step", arguments, magnitudes, 2)


@pytest.mark.parametrize(
    ("optimizer", "n"),
    [
        pytest.param(row, n, id=f"{row.name}-{n}")
        for row in OPTIMIZERS
        for n in ((*LENGTHS, 5000) if row.name in ("adam", "rmsprop_momentum") else (33, 5000))
    ],
)
@pytest.mark.parametrize("n_threads", [1, 3])
def test_optimizer_step(compare, rng, dtype, optimizer, n, n_threads):
    arguments = optimizer_arguments(rng, dtype, optimizer, n, n_threads)
    for _ in range(3):
        after = compare_step(compare, arguments)
        arguments |= {
            "parameters": after["parameters"],
            "state": after["state"],
            "grad": normal(rng, dtype, n),
            "coefficients": 0.9 * arguments["coefficients"],
        }


@every_optimizer
def test_optimizer_step_at_edge_values(compare, rng, dtype, optimizer):
    edges = edge_values(dtype)
    arguments = optimizer_arguments(rng, dtype, optimizer, 3 * len(edges))
    n_state = len(optimizer.state)
    for place in range(2 + n_state):
        given = arguments | {"state": arguments["state"].copy()}
        if place < 2:
            given[("parameters", "grad")[place]] = np.resize(edges, 3 * len(edges))
        else:
            given["state"][place - 2] = np.resize(np.abs(edges), 3 * len(edges))
        compare_step(compare, given)


@pytest.mark.parametrize(
    ("name", "position"),
    [
        pytest.param(row, position, id=f"{row.name}-{coefficient}")
        for row in OPTIMIZERS
        for position, coefficient in enumerate(row.coefficients)
    ],
)
def test_every_coefficient_counts(kernels, rng, dtype, name, position):
    share = 0.0
    for size in (1, 4):  # of the state: a maximum may hide some coefficient
        arguments = optimizer_arguments(rng, dtype, name, 500)
        arguments["state"] *= dtype(size)
        other = {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
        other["coefficients"][position] *= 0.9
        kernels.optimizer_step(**arguments)
        kernels.optimizer_step(**other)
        results = [np.vstack([each["parameters"], each["state"]]) for each in (arguments, other)]
        share = max(share, (results[0] != results[1]).any(axis=0).mean())
    # Rounding hides a few changes; a maximum or a sign shows few.
    assert share > (0.01 if name.name in ("adamax", "lion") else 0.9)

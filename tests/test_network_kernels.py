"""Network kernels agree with the reference: depths, widths, batches, threads, weights."""

from __future__ import annotations

import numpy as np
import pytest

from fastmlp.kernels import reference
from fastmlp.kernels.catalogue import ACTIVATIONS, CODES, OPTIMIZERS

#: Widths of networks of depth 1 to 4, with odd tails and a sum of 300 products.
WIDTHS = {
    1: (7, 3),
    2: (17, 33, 10),
    3: (65, 31, 1, 5),
    4: (9, 300, 16, 8, 2),
}
SEVERAL = ("leaky_relu", "tanh", "silu", "sigmoid")

#: Batches too large to go through a network as a whole: in 4 parts or 32, of one block or two.
LARGE = (511, 512, 4500)

#: Widths on both sides of what is narrow, and inputs or outputs that are most of a network.
EDGES = [(128, 3), (129, 3), (784, 1), (3, 128, 1), (1, 130), (3, 40, 200)]

#: Batches: none, the matrix–vector path, small ones, more than a row block.
N_SAMPLES = (0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 97, 200)

every_depth = pytest.mark.parametrize("depth", WIDTHS)
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda row: row.name)
#: With 0 to 3 rows of state; the padding of Adamax's would become ε.
several_optimizers = pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(row, id=row.name)
        for row in OPTIMIZERS
        if row.name in ("sgd", "momentum", "adamax", "centered_rmsprop")
    ],
)
every_thread_count = pytest.mark.parametrize("n_threads", [1, 2, 3, 7])


@pytest.fixture
def make_network(make_problem, dtype):
    """Return the function that draws a network of some depth, its last layer linear."""

    def make(depth, **options):
        activations = (*SEVERAL[: depth - 1], "identity")
        return make_problem(dtype, WIDTHS[depth], activations, **options)

    return make


@pytest.fixture
def make_smooth_network(make_problem, dtype):
    """Return the function that draws a network with many samples, none of them near a kink."""

    def make(depth, n_samples):
        activations = (*("tanh", "silu", "sigmoid")[: depth - 1], "identity")
        return make_problem(dtype, WIDTHS[depth], activations, n_samples=n_samples)

    return make


def compare_forward(compare, problem, n_threads=1):
    out = np.full((len(problem.x), problem.n_out), np.nan, problem.dtype)
    arguments = problem.arguments("network_forward", n_threads, out=out)
    compare("network_forward", arguments, {"out": None}, problem.n_terms)


def compare_gradient(compare, problem, n_threads=1):
    """Compare loss and gradient; the reference leaves NaN in the padding of `grad`."""
    grad = np.full_like(problem.parameters, np.nan)
    arguments = problem.arguments("network_loss", n_threads)
    compare("network_loss", arguments, {"return": None}, problem.n_terms)
    arguments = problem.arguments("network_gradient", n_threads, grad=grad)
    return compare("network_gradient", arguments, {"return": None, "grad": None}, problem.n_terms)[
        "grad"
    ]


@every_depth
@pytest.mark.parametrize("n_samples", N_SAMPLES)
def test_forward_and_gradient(compare, make_network, depth, n_samples):
    problem = make_network(depth, n_samples=n_samples)
    compare_forward(compare, problem)
    compare_gradient(compare, problem)


@pytest.mark.parametrize("n_samples", [1, 3, 97])
@pytest.mark.parametrize("activation", [row.name for row in ACTIVATIONS])
def test_every_activation(compare, make_problem, dtype, activation, n_samples):
    problem = make_problem(dtype, WIDTHS[3], [activation] * 3, n_samples=n_samples)
    compare_forward(compare, problem, 2)
    compare_gradient(compare, problem, 2)


@every_thread_count
@every_depth
def test_threads(compare, make_network, depth, n_threads):
    problem = make_network(depth, n_samples=200)
    compare_forward(compare, problem, n_threads)
    compare_gradient(compare, problem, n_threads)


@every_thread_count
@pytest.mark.parametrize("depth", [2, 4])
@pytest.mark.parametrize("n_samples", LARGE)
def test_large_batches(compare, make_smooth_network, depth, n_samples, n_threads):
    compare_gradient(compare, make_smooth_network(depth, n_samples), n_threads)


@pytest.mark.parametrize("widths", EDGES, ids=lambda widths: "-".join(map(str, widths)))
@pytest.mark.parametrize("n_samples", [15, 16, 63, 64, 129, 512])
def test_widths_and_batches_at_the_edges(compare, make_problem, dtype, widths, n_samples):
    activations = (*("silu", "tanh")[: len(widths) - 2], "tanh")
    compare_gradient(compare, make_problem(dtype, widths, activations, n_samples=n_samples), 3)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda row: row.name)
def test_every_activation_in_every_layer(compare, make_problem, dtype, activation):
    activations = (activation.name,) * 3
    compare_gradient(compare, make_problem(dtype, (5, 18, 7, 3), activations, n_samples=33))


@pytest.mark.parametrize("n_samples", [33, 600])
def test_softmax_in_the_last_layer(compare, make_problem, dtype, n_samples):
    problem = make_problem(dtype, (5, 9, 4), ("tanh", "softmax"), n_samples=n_samples)
    compare_gradient(compare, problem, 2)


@pytest.mark.parametrize("n_samples", [1, 17])
def test_gradient_of_every_loss(compare, make_network, objective, n_samples):
    problem = make_network(2, **objective, n_samples=n_samples)
    compare_gradient(compare, problem)


@pytest.mark.parametrize("n_samples", [17, 200])
def test_sample_weight(compare, make_network, rng, objective, n_samples):
    problem = make_network(2, **objective, n_samples=n_samples)
    sample_weight = 3 * rng.random(n_samples).astype(problem.dtype)
    sample_weight[::3] = 0
    compare_gradient(compare, problem.replace(sample_weight=sample_weight))
    grad = compare_gradient(compare, problem.replace(sample_weight=0 * sample_weight))
    assert not grad[problem.used].any()


def test_integer_weights_are_repeated_samples(kernels, make_network, objective):
    problem = make_network(2, **objective, n_samples=9)
    repeats = np.arange(9) % 4

    def repeat(array):
        return np.repeat(array, repeats, axis=0) if len(array) else array

    weighted = problem.replace(sample_weight=repeats.astype(problem.dtype))
    repeated = problem.replace(
        x=np.repeat(problem.x, repeats, axis=0),
        target=problem.target
        if objective["as_labels"]
        else np.repeat(problem.target, repeats, axis=0),
        labels=np.repeat(problem.labels, repeats) if objective["as_labels"] else problem.labels,
    )
    grads, values = [], []
    for each in (weighted, repeated):
        grads.append(np.zeros_like(problem.parameters))
        arguments = each.arguments("network_gradient", grad=grads[-1])
        values.append(kernels.network_gradient(**arguments))
        value = kernels.network_loss(**each.arguments("network_loss"))
        assert value == pytest.approx(values[-1], rel=1e-15)  # the last sum may be fused or not
    tolerance = repeated.n_terms * np.finfo(problem.dtype).eps
    np.testing.assert_allclose(*grads, rtol=0, atol=tolerance * np.abs(grads[0]).max())
    np.testing.assert_allclose(*values, rtol=tolerance)


@pytest.mark.parametrize("central", [False, True], ids=["forward", "central"])
def test_difference_gradient(kernels, make_problem, dtype, central):
    problem = make_problem(dtype, WIDTHS[2], ("tanh", "identity"), n_samples=3)
    step = np.finfo(dtype).eps ** (1 / 3 if central else 1 / 2)
    indices = problem.used[::-7].copy()  # some, in any order
    parameters, out = problem.parameters.copy(), np.full(len(indices), np.nan)
    steps = np.full(len(indices), step, dtype)
    steps[::2] *= -2
    arguments = problem.arguments(
        "network_difference_gradient", indices=indices, steps=steps, central=central, out=out
    )
    kernels.network_difference_gradient(**arguments)
    assert problem.parameters.tobytes() == parameters.tobytes()
    grad = np.zeros_like(parameters)
    kernels.network_gradient(**problem.arguments("network_gradient", grad=grad))
    # Truncation is of the order step^2 or step, rounding of n · eps / step.
    bound = 4 * (step**2 if central else step) + problem.n_terms * np.finfo(dtype).eps / step
    np.testing.assert_allclose(out, grad[indices], rtol=0, atol=bound * np.abs(grad).max())


@pytest.mark.parametrize("central", [False, True], ids=["forward", "central"])
def test_difference_gradient_is_that_of_the_scheme(compare, make_problem, rng, central):
    problem = make_problem(np.float64, (5, 4, 3), ("tanh", "sigmoid"), "mse")
    steps = rng.uniform(0.1, 0.3, len(problem.used))  # so large that the scheme shows
    arguments = problem.arguments(
        "network_difference_gradient",
        indices=problem.used,
        steps=steps,
        central=central,
        out=np.full(len(steps), np.nan),
    )
    magnitudes = {"out": 1 / steps, "parameters": 0}
    compare("network_difference_gradient", arguments, magnitudes, problem.n_terms)


def training_arguments(problem, optimizer, order, batch_size, n_threads=1):
    """Return the arguments of a run whose coefficients differ in every step."""
    n_steps = -(-len(order) // batch_size)
    coefficients = np.linspace(0.1, 0.4, len(optimizer.coefficients))
    return problem.arguments(
        "network_train",
        n_threads,
        state=np.zeros((len(optimizer.state), len(problem.parameters)), problem.dtype),
        order=order,
        batch_size=batch_size,
        optimizer=optimizer.code,
        coefficients=coefficients * 0.95 ** np.arange(n_steps)[:, None],
        losses=np.full(n_steps, np.nan),
    )


def compare_training(compare, problem, arguments):
    magnitudes = {"parameters": None, "state": None, "losses": None}
    if arguments["grad"].size:
        magnitudes["grad"] = None
    # Every step adds its own rounding to that of the steps before it.
    n_terms = problem.n_terms * (1 + len(arguments["losses"]))
    return compare("network_train", arguments, magnitudes, n_terms)


@every_optimizer
@every_depth
@pytest.mark.parametrize("batch_size", [1, 4, 9, 100])
def test_train(compare, make_network, rng, optimizer, depth, batch_size):
    problem = make_network(depth, n_samples=23)
    order = rng.integers(23, size=min(3 * batch_size + 2, 203))  # repeats, a short last batch
    after = compare_training(
        compare, problem, training_arguments(problem, optimizer, order, batch_size)
    )
    assert not np.array_equal(after["parameters"], problem.parameters)


@every_optimizer
def test_train_on_every_loss(compare, make_network, rng, optimizer, objective):
    problem = make_network(2, **objective, n_samples=23)
    arguments = training_arguments(problem, optimizer, rng.permutation(23), 8)
    compare_training(compare, problem, arguments)


def test_train_with_sample_weight(compare, make_network, rng, objective):
    problem = make_network(2, **objective, n_samples=23)
    sample_weight = 3 * rng.random(23).astype(problem.dtype)
    sample_weight[::3] = 0
    order = rng.permutation(23)
    sample_weight[order[8:12]] = 0  # all of the third batch
    problem = problem.replace(sample_weight=sample_weight)
    arguments = training_arguments(problem, OPTIMIZERS[1], order, 4)
    after = compare_training(compare, problem, arguments)
    assert after["losses"][2] == 0
    assert np.count_nonzero(after["losses"]) == 5


def test_integer_weights_are_repeated_visits(kernels, make_network, objective):
    problem = make_network(2, **objective, n_samples=9)
    repeats = np.arange(9) % 4
    after = []
    for weights, order in ((repeats, np.arange(9)), ([], np.repeat(np.arange(9), repeats))):
        each = problem.replace(
            parameters=problem.parameters.copy(),
            sample_weight=np.array(weights, problem.dtype),
        )
        arguments = training_arguments(each, OPTIMIZERS[0], order, len(order))
        kernels.network_train(**arguments)
        after.append((each.parameters, arguments["losses"]))
    tolerance = 2 * problem.n_terms * np.finfo(problem.dtype).eps
    for weighted, repeated in zip(*after, strict=True):
        size = np.abs(repeated).max()
        np.testing.assert_allclose(weighted, repeated, rtol=0, atol=tolerance * size)


@several_optimizers
@pytest.mark.parametrize(("n_samples", "batch_size"), [(23, 1), (23, 8), (230, 100)])
def test_train_with_an_average(compare, make_network, rng, optimizer, n_samples, batch_size):
    problem = make_network(3, n_samples=n_samples)
    arguments = training_arguments(problem, optimizer, rng.permutation(n_samples), batch_size)
    n_steps = len(arguments["losses"])
    state = np.zeros((len(optimizer.state) + 1, len(problem.parameters)), problem.dtype)
    averaging = np.where(np.arange(n_steps) == 0, 1, 0.3)
    after = compare_training(compare, problem, arguments | {"state": state, "averaging": averaging})
    assert np.abs(after["state"][-1] - after["parameters"])[problem.used].all()


CLIPS = {"value": (1e-3, np.inf), "norm": (np.inf, 0.05), "both": (0.02, 0.05), "idle": (1e9, 1e9)}


def clipped_arguments(problem, optimizer, order, batch_size, clip, n_threads=1, share=0.3):
    """Return the arguments of a run that clips, and has an average."""
    arguments = training_arguments(problem, optimizer, order, batch_size, n_threads)
    state = np.zeros((len(optimizer.state) + 1, len(problem.parameters)), problem.dtype)
    averaging = np.full(len(arguments["losses"]), share)
    limits = dict(zip(("clip_value", "clip_norm"), CLIPS[clip], strict=True))
    grad = np.full_like(problem.parameters, np.nan)
    return arguments | limits | {"state": state, "averaging": averaging, "grad": grad}


@several_optimizers
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("batch_size", [1, 8])
def test_train_with_clipping(compare, make_network, rng, optimizer, batch_size, clip):
    problem = make_network(3, n_samples=23)
    order = rng.permutation(23)
    arguments = clipped_arguments(problem, optimizer, order, batch_size, clip)
    grad = compare_training(compare, problem, arguments)["grad"][problem.used]
    clip_value, clip_norm = CLIPS[clip]
    eps = np.finfo(problem.dtype).eps
    assert np.abs(grad).max() <= clip_value * (1 + eps)
    assert np.linalg.norm(grad.astype(np.float64)) <= clip_norm * (1 + 8 * eps)


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_clipping_at_every_depth(compare, make_network, rng, depth, n_threads):
    problem = make_network(depth, n_samples=200)
    order = rng.permutation(200)
    arguments = clipped_arguments(problem, OPTIMIZERS[1], order, 64, "norm", n_threads)
    compare_training(compare, problem, arguments)


def test_the_norm_of_huge_gradients_does_not_overflow(kernels, make_network, dtype):
    problem = make_network(2, n_samples=9)
    problem.target[...] = np.sqrt(np.finfo(dtype).max) if dtype == np.float32 else 1e140
    arguments = clipped_arguments(problem, OPTIMIZERS[0], np.arange(9), 9, "norm", share=0.0)
    kernels.network_train(**arguments)
    norm = np.linalg.norm(arguments["grad"][problem.used].astype(np.float64))
    np.testing.assert_allclose(norm, CLIPS["norm"][1], rtol=1e-5)
    assert np.isfinite(problem.parameters).all()


@every_thread_count
def test_train_with_threads(compare, make_network, rng, n_threads):
    problem = make_network(2, n_samples=300)
    problem = problem.replace(sample_weight=rng.random(300).astype(problem.dtype))
    arguments = training_arguments(problem, OPTIMIZERS[0], rng.permutation(300), 128, n_threads)
    compare_training(compare, problem, arguments)


@several_optimizers
@pytest.mark.parametrize("clip", ["idle", "both"])
def test_train_on_large_batches(compare, make_smooth_network, rng, optimizer, clip):
    problem = make_smooth_network(2, 700)
    problem = problem.replace(sample_weight=rng.random(700).astype(problem.dtype))
    order = rng.integers(700, size=1500)
    compare_training(compare, problem, training_arguments(problem, optimizer, order, 600, 3))
    arguments = clipped_arguments(problem, optimizer, order, 600, clip, 3)
    compare_training(compare, problem, arguments)


@every_optimizer
def test_train_on_no_samples_changes_nothing(compare, make_network, optimizer):
    problem = make_network(2)
    arguments = training_arguments(problem, optimizer, np.empty(0, np.int64), 8)
    after = compare_training(compare, problem, arguments)
    assert after["parameters"].tobytes() == problem.parameters.tobytes()


@every_optimizer
@pytest.mark.parametrize("clips", [False, True])
@pytest.mark.parametrize("batch_size", [8, 512])
def test_padding_stays_zero(kernels, make_network, rng, optimizer, clips, batch_size):
    problem = make_network(2, n_samples=23)
    order = rng.integers(23, size=12 * batch_size)
    arguments = training_arguments(problem, optimizer, order, batch_size, 3)
    if clips:
        arguments = clipped_arguments(problem, optimizer, order, batch_size, "both", 3)
    kernels.network_train(**arguments)
    padding = np.setdiff1d(np.arange(len(problem.parameters)), problem.used)
    assert len(padding)
    assert not arguments["parameters"][padding].any()
    assert not arguments["state"][:, padding].any()
    assert arguments["parameters"][problem.used].all()


def test_nan_in_one_sample_stays_in_its_row(compare, make_network):
    problem = make_network(4, n_samples=17)
    problem.x[5, 3] = np.nan
    compare_forward(compare, problem)


def test_a_step_of_sgd_follows_the_gradient(kernels, make_network):
    problem = make_network(2, n_samples=17)
    grad = np.zeros_like(problem.parameters)
    value = kernels.network_gradient(**problem.arguments("network_gradient", grad=grad))
    expected = problem.parameters - problem.dtype.type(0.5) * grad
    losses = np.full(1, np.nan)
    arguments = problem.arguments(
        "network_train",
        state=np.zeros((0, len(grad)), problem.dtype),
        order=np.arange(17),
        batch_size=17,
        optimizer=CODES["SGD"],
        coefficients=np.array([[0.5, 0]]),
        losses=losses,
    )
    kernels.network_train(**arguments)
    tolerance = 4 * problem.n_terms * np.finfo(problem.dtype).eps
    np.testing.assert_allclose(losses[0], value, rtol=tolerance)
    np.testing.assert_allclose(problem.parameters, expected, rtol=0, atol=tolerance)


# --- Rows of a weight whose input is 0, which a kernel may leave out -----------------------


@pytest.fixture
def make_sparse_network(make_problem, dtype):
    """Return the function that draws a network and samples in which every other number is 0."""

    def make(activations=("relu", "relu6", "identity")):
        problem = make_problem(dtype, (70, 150, 67, 3), activations, n_samples=7)
        problem.x[:, ::2] = 0
        return problem

    return make


def sgd_arguments(problem, decay=0.0, n_threads=1, batch_size=1):
    """Return the arguments of a run of gradient descent."""
    arguments = training_arguments(problem, OPTIMIZERS[0], np.arange(7), batch_size, n_threads)
    n_steps = len(arguments["losses"])
    return arguments | {"coefficients": np.tile([0.1, decay], (n_steps, 1))}


@several_optimizers
@pytest.mark.parametrize("batch_size", [1, 2, 3, 7])
@pytest.mark.parametrize("averages", [False, True], ids=["alone", "averaged"])
@pytest.mark.parametrize("decays", [False, True], ids=["kept", "decaying"])
def test_train_where_inputs_are_zero(
    compare, make_sparse_network, optimizer, batch_size, averages, decays
):
    problem = make_sparse_network()
    arguments = training_arguments(problem, optimizer, np.arange(7), batch_size)
    coefficients = arguments["coefficients"]
    coefficients[:, 1] *= decays  # the decay of SGD and of momentum
    if averages:
        state = np.zeros((len(optimizer.state) + 1, len(problem.parameters)), problem.dtype)
        arguments |= {"state": state, "averaging": np.linspace(1, 0.3, len(coefficients))}
    compare_training(compare, problem, arguments)


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("activation", ["relu", "relu6", "identity", "tanh", "silu", "sigmoid"])
def test_what_a_unit_at_zero_passes(compare, make_sparse_network, activation, batch_size):
    problem = make_sparse_network((activation, activation, "identity"))
    for layer in problem.layers[:2]:  # the first units have z = 0 in every step but one
        stride = layer[CODES["STRIDE"]]
        problem.parameters[layer[CODES["WEIGHT"]] : layer[CODES["BIAS"]] + 1 : stride] = 0
    arguments = training_arguments(problem, OPTIMIZERS[0], np.arange(2), batch_size)
    compare_training(compare, problem, arguments)


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("activations", [("relu", "relu6", "identity"), ("tanh", "relu", "silu")])
def test_leaving_rows_out_changes_no_bit(kernels, make_sparse_network, activations, n_threads):
    problem, after = make_sparse_network(activations), []
    # The least decay changes no number, but forbids leaving any row out.
    for decay in (0.0, np.finfo(problem.dtype).smallest_subnormal):
        own = problem.replace(parameters=problem.parameters.copy())
        kernels.network_train(**sgd_arguments(own, decay, n_threads))
        after.append(own.parameters)
    np.testing.assert_array_equal(*after)
    rows = after[0][: 70 * problem.layers[0, CODES["STRIDE"]]].reshape(70, -1)
    before = problem.parameters[: rows.size].reshape(70, -1)
    np.testing.assert_array_equal(rows[::2], before[::2])
    assert (rows[1::2] != before[1::2]).any(axis=1).all()


@pytest.mark.parametrize("strange", [np.nan, np.inf])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_rows_left_out_hide_nothing(kernels, make_sparse_network, strange, batch_size):
    problem, found = make_sparse_network(), []
    problem.target[4, 1] = strange
    for module in (kernels, reference):
        own = problem.replace(parameters=problem.parameters.copy())
        with np.errstate(invalid="ignore"):
            module.network_train(**sgd_arguments(own, batch_size=batch_size))
        found.append(own.parameters[problem.used])
    assert np.isnan(found[1]).any()
    np.testing.assert_array_equal(*map(np.isnan, found))
    np.testing.assert_array_equal(*map(np.isinf, found))

"""Layers that are not dense, as users see them."""

import copy
import pickle
from itertools import pairwise

import numpy as np
import pytest

import fastmlp as fm

X = np.random.default_rng(0).normal(size=(60, 6))
Y = np.random.default_rng(1).integers(3, size=60)


def train(net, **options):
    defaults = {"optimizer": fm.SGD(0.05, momentum=0.9), "epochs": 3, "batch_size": 20, "seed": 5}
    return net.fit(X, Y, verbose=0, **defaults | options)


def with_dropout(rate=0.5, dtype="float64", seed=0):
    layers = [fm.Dense(6, 30, "relu"), fm.Dropout(rate), fm.Dense(30, 3)]
    return fm.MLP(layers, dtype=dtype, seed=seed)


def test_sizes_follow_the_layer_below(every_layer):
    assert [layer.n_out for layer in every_layer.layers] == [6, 20, 20, 20, 20, 9, 9, 9, 7, 7, 3]
    assert all(below.n_out == above.n_in for below, above in pairwise(every_layer.layers))
    shapes = [weight.shape for weight in every_layer.weights]
    assert shapes == [
        (6,), (20, 6), (20,), (0,), (0,), (9, 20), (9,), (9,), (7, 9), (1,), (3, 7),
    ]  # fmt: skip
    assert [bias.size for bias in every_layer.biases] == [6, 0, 20, 0, 0, 9, 0, 9, 7, 0, 3]
    assert [mean.size for mean in every_layer.running_means] == [6, 0, 20] + 8 * [0]
    assert every_layer.n_parameters == len(every_layer.get_parameters())


def test_representations(every_layer):
    assert repr(every_layer) == (
        "MLP(6-20-9-7-3; batch norm, identity, batch norm, leaky_relu, dropout 0.25, identity, "
        "PReLU, layer norm, tanh, PReLU, identity; 483 parameters; float32)"
    )
    assert repr(every_layer.layers[0]) == "BatchNorm(momentum=0.3, n_features=6)"
    assert repr(fm.Dropout(0.1)) == "Dropout(0.1)"
    assert repr(fm.Activation("elu")) == "Activation('elu', alpha=1.0)"
    assert repr(fm.Dense(2, 3, bias=False)) == "Dense(2, 3, activation='identity', bias=False)"
    for layer in every_layer.layers:
        assert eval(repr(layer), vars(fm)) == layer


def test_parameters_begin_where_the_papers_say():
    layers = [fm.Dense(4, 5), fm.LayerNorm(), fm.BatchNorm(), fm.PReLU(), fm.PReLU(shared=True)]
    net = fm.MLP(layers, seed=0)
    for index, value in enumerate((1, 1, 0.25, 0.25), start=1):
        np.testing.assert_array_equal(net.weights[index], value)
    assert not any(bias.any() for bias in net.biases)
    assert not net.running_means[2].any()
    np.testing.assert_array_equal(net.running_variances[2], 1)


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ([fm.Dropout(0.5), fm.Dense(2, 3)], ValueError, r"layers\[0\] is the first.*n_features"),
        ([fm.Dense(2, 3), fm.LayerNorm(n_features=4)], ValueError, "takes 4 features, .* gives 3"),
        ([fm.LayerNorm(n_features=4)], ValueError, "at least one Dense layer"),
        (
            [fm.Dense(3, 1), fm.Activation("softmax")],
            ValueError,
            r"layers\[1\] must not have activation 'softmax', which is constant for 1 feature",
        ),
    ],
)
def test_layers_that_do_not_fit_are_refused(layers, error, message):
    with pytest.raises(error, match=message):
        fm.MLP(layers)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: fm.Dropout(1), ValueError, r"rate must be a number in \[0, 1\), got 1"),
        (lambda: fm.Dropout("much"), TypeError, "rate must be a number"),
        (lambda: fm.LayerNorm(eps=0), ValueError, r"eps must be a number in \(0, inf\)"),
        (lambda: fm.LayerNorm(64), TypeError, "positional argument"),
        (lambda: fm.BatchNorm(1), TypeError, "positional argument"),
        (lambda: fm.BatchNorm(momentum=0), ValueError, r"momentum must be a number in \(0, 1\]"),
        (lambda: fm.BatchNorm(n_features=0), ValueError, "n_features must be an integer of at"),
        (lambda: fm.PReLU(shared=1), TypeError, "shared must be True or False, got 1"),
        (lambda: fm.PReLU(initial=np.inf), ValueError, "initial must be a number"),
        (lambda: fm.Activation("relo"), ValueError, "nearest: 'relu'"),
        (lambda: fm.Activation("relu", alpha=1), ValueError, "alpha must be None"),
        (lambda: fm.Dense(2, 3, bias=None), TypeError, "bias must be True or False, got None"),
    ],
)
def test_wrong_arguments_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


# --- Dropout ------------------------------------------------------------------------------


def test_dropout_does_nothing_in_use(backend):
    net = with_dropout()
    plain = fm.MLP([net.layers[0], net.layers[2]], dtype="float64", seed=0)
    plain.set_parameters(net.get_parameters())
    np.testing.assert_array_equal(net(X), plain(X))
    assert net.loss(X, Y) == plain.loss(X, Y)
    np.testing.assert_array_equal(
        net.value_and_grad(X, Y)[1].to_vector(), plain.value_and_grad(X, Y)[1].to_vector()
    )
    np.testing.assert_array_equal(net.jacobian(X), plain.jacobian(X))


def test_dropout_of_rate_0_trains_like_none(backend):
    net = with_dropout(0)
    plain = fm.MLP([net.layers[0], net.layers[2]], dtype="float64", seed=0)
    plain.set_parameters(net.get_parameters())
    for each in (net, plain):
        train(each, shuffle=False)
    np.testing.assert_allclose(net.get_parameters(), plain.get_parameters(), rtol=1e-12)


def test_dropout_follows_the_seed_of_fit(backend):
    results = {}
    for seed in (0, 0, 1):
        net = with_dropout()
        train(net, seed=seed, shuffle=False)
        results.setdefault(seed, []).append(net.get_parameters())
    np.testing.assert_array_equal(*results[0])
    assert not np.array_equal(results[0][0], results[1][0])


def test_dropout_is_the_same_on_all_backends():
    results = []
    for name in fm.kernels.BACKENDS:
        net = with_dropout()
        with fm.use_backend(name):
            train(net)
        results.append(net.get_parameters())
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], rtol=1e-9, atol=1e-12)


def test_dropout_does_not_depend_on_how_steps_are_cut_into_calls(monkeypatch):
    """Fit runs as many steps in a call as take some time; masks count steps, not calls."""
    whole, cut = with_dropout(), with_dropout()
    train(whole)
    slices = fm.training.Pace.slices

    def single_steps(self, n):
        list(slices(self, n))
        return (slice(i, i + 1) for i in range(n))

    monkeypatch.setattr(fm.training.Pace, "slices", single_steps)
    train(cut)
    np.testing.assert_array_equal(whole.get_parameters(), cut.get_parameters())


def test_train_step_draws_new_masks_that_follow_the_network_s_seed(backend):
    def losses(seed):
        net = with_dropout(seed=0)
        net._noise = with_dropout(seed=seed)._noise
        return [net.train_step(X, Y, optimizer=fm.SGD(1e-9)) for _ in range(3)]

    assert losses(0) == losses(0)
    assert len(set(losses(0))) == 3
    assert losses(0) != losses(1)


@pytest.mark.parametrize("duplicate", ["astype", "save"])
def test_masks_go_on_in_copies_and_files(duplicate, tmp_path):
    net = with_dropout()
    net.train_step(X, Y, optimizer=fm.SGD(0.1))
    net.save(tmp_path / "net")
    other = net.astype("float64") if duplicate == "astype" else fm.load(tmp_path / "net")
    for each in (net, other):
        train(each, epochs=1)
    losses = [[each.loss(X, Y, training=True) for _ in range(2)] for each in (net, other)]
    assert losses[0] == losses[1]
    steps = [each.train_step(X, Y, optimizer=fm.SGD(0.1)) for each in (net, other)]
    assert steps[0] == steps[1]


def test_the_mean_over_masks_is_the_output_without(backend):
    net = fm.MLP([fm.Dense(6, 40, "relu"), fm.Dropout(0.3), fm.Dense(40, 3)], seed=0)
    _, expected = net.value_and_grad(X, X[:, :3], "quadratic")
    drawn = [
        net.value_and_grad(X, X[:, :3], "quadratic", training=True)[1].biases[2] for _ in range(400)
    ]
    error = np.std(drawn, axis=0) / np.sqrt(len(drawn))
    assert (np.abs(np.mean(drawn, axis=0) - expected.biases[2]) < 5 * error).all()


def test_a_step_that_is_refused_draws_no_mask():
    net = with_dropout()
    seed, taken = net.mask_seed, fm.SGD(0.1)
    with_dropout().train_step(X, Y, optimizer=taken)
    for optimizer in (0.1, taken, fm.SGD(lambda k: -1)):
        with pytest.raises((TypeError, ValueError)):
            net.train_step(X, Y, optimizer=optimizer)
    assert net.mask_seed == seed
    net.train_step(X, Y, optimizer=fm.SGD(0.1))
    assert net.mask_seed == seed + 1


# --- Batch normalisation ------------------------------------------------------------------


def test_batch_norm_refuses_a_batch_of_one():
    net = fm.MLP([fm.Dense(6, 3), fm.BatchNorm()], seed=0)
    before = net.get_parameters()
    for call in (
        lambda: net.fit(X, Y, batch_size=1, verbose=0),
        lambda: net.fit(X[:41], Y[:41], batch_size=20, verbose=0),
        lambda: net.train_step(X[0], 1, optimizer=fm.Adam()),
        lambda: net.loss(X[:1], Y[:1], training=True),
        lambda: net.value_and_grad(X[:1], Y[:1], training=True),
    ):
        with pytest.raises(ValueError, match="BatchNorm needs at least 2 samples"):
            call()
    np.testing.assert_array_equal(net.get_parameters(), before)
    net.fit(X[:41], Y[:41], batch_size=20, drop_last=True, epochs=1, verbose=0)
    assert net(X[:1]).shape == (1, 3)


def test_gradient_in_training_is_that_of_the_loss_in_training(backend):
    layers = [fm.Dense(6, 5, bias=False), fm.BatchNorm(), fm.Activation("tanh"), fm.Dense(5, 3)]
    net = fm.MLP(layers, dtype="float64", seed=0)
    weights = np.random.default_rng(2).integers(1, 4, size=len(X)).astype(float)
    options = {"sample_weight": weights, "training": True}
    _, grad = net.value_and_grad(X, Y, **options)
    theta, estimates, step = net.get_parameters(), [], 1e-5
    for i in range(len(theta)):
        values = []
        for sign in (1, -1):
            net.set_parameters(theta + sign * step * (np.arange(len(theta)) == i))
            values.append(net.loss(X, Y, **options))
        estimates.append((values[0] - values[1]) / (2 * step))
    np.testing.assert_allclose(grad.to_vector(), estimates, rtol=1e-7, atol=1e-9)


def test_running_statistics_are_those_of_pytorch(backend):
    th = pytest.importorskip("torch")
    net = fm.MLP([fm.Dense(6, 4), fm.BatchNorm(momentum=0.3)], dtype="float64", seed=0)
    other = th.nn.BatchNorm1d(4, momentum=0.3, dtype=th.float64)
    for rows in np.split(np.arange(60), 3):
        with th.no_grad():
            other(th.tensor(X[rows] @ net.weights[0].T + net.biases[0]))
        net.train_step(X[rows], X[rows, :4], "quadratic", optimizer=fm.SGD(1e-300))
    np.testing.assert_allclose(net.running_means[1], other.running_mean, rtol=1e-12)
    np.testing.assert_allclose(net.running_variances[1], other.running_var, rtol=1e-12)


def test_statistics_go_where_parameters_go(every_layer):
    expected = every_layer(X)
    for other in (
        copy.copy(every_layer),
        copy.deepcopy(every_layer),
        pickle.loads(pickle.dumps(every_layer)),
    ):
        np.testing.assert_array_equal(other(X), expected)
        other.running_means[2][...] = 0
        assert not np.array_equal(other(X), expected)
        np.testing.assert_array_equal(every_layer(X), expected)
    np.testing.assert_allclose(every_layer.astype("float64")(X), expected, rtol=1e-4, atol=1e-5)


def test_early_stopping_restores_statistics(every_layer):
    seen = []

    def note(net, epoch, history):
        seen.append(net(X))

    stop = fm.EarlyStopping("loss", patience=1)
    train(every_layer, optimizer=fm.SGD(3.0), epochs=6, callbacks=[stop, note])
    np.testing.assert_array_equal(every_layer(X), seen[stop.best_epoch])


# --- All of them --------------------------------------------------------------------------


def test_training_is_that_of_pytorch(backend):
    """Every layer but dropout, whose masks are its own."""
    th = pytest.importorskip("torch")
    layers = [
        fm.BatchNorm(n_features=6), fm.Dense(6, 20, bias=False), fm.BatchNorm(momentum=0.3),
        fm.Activation("silu"), fm.Dense(20, 9), fm.PReLU(), fm.LayerNorm(eps=1e-3),
        fm.Dense(9, 7, "tanh"), fm.PReLU(shared=True), fm.Dense(7, 3),
    ]  # fmt: skip
    net = fm.MLP(layers, dtype="float64", seed=0)
    make = {"dtype": th.float64}
    other = th.nn.Sequential(
        th.nn.BatchNorm1d(6, **make), th.nn.Linear(6, 20, bias=False, **make),
        th.nn.BatchNorm1d(20, momentum=0.3, **make), th.nn.SiLU(), th.nn.Linear(20, 9, **make),
        th.nn.PReLU(9, **make), th.nn.LayerNorm(9, eps=1e-3, **make), th.nn.Linear(9, 7, **make),
        th.nn.Tanh(), th.nn.PReLU(**make), th.nn.Linear(7, 3, **make),
    )  # fmt: skip
    ours = [part for pair in zip(net.weights, net.biases, strict=True) for part in pair]
    with th.no_grad():
        for parameter, part in zip(
            other.parameters(), [part for part in ours if part.size], strict=True
        ):
            parameter[...] = th.tensor(np.ascontiguousarray(part))
    net.fit(X, Y, optimizer=fm.Adam(1e-2), epochs=5, batch_size=20, shuffle=False, verbose=0)
    optimizer = th.optim.Adam(other.parameters(), lr=1e-2)
    for _ in range(5):
        for rows in np.split(np.arange(60), 3):
            optimizer.zero_grad()
            loss = th.nn.functional.cross_entropy(other(th.tensor(X[rows])), th.tensor(Y[rows]))
            loss.backward()
            optimizer.step()
    other.eval()
    with th.no_grad():
        np.testing.assert_allclose(net(X), other(th.tensor(X)), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("n_threads", [2, 3])
def test_training_does_not_depend_on_threads(every_layer, backend, n_threads):
    results = []
    before = fm.get_num_threads()
    for n in (1, n_threads):
        net = copy.deepcopy(every_layer)
        fm.set_num_threads(n)
        try:
            train(net)
        finally:
            fm.set_num_threads(before)
        results.append((net.get_parameters(), net.running_variances[2]))
    for one, several in zip(*results, strict=True):
        np.testing.assert_array_equal(one, several)


def test_gradients_are_checked(every_layer, backend):
    fm.check_gradient(every_layer, X[:8], Y[:8]).assert_ok()


def test_single_samples_take_the_same_steps(backend):
    layers = [fm.Dense(6, 5), fm.LayerNorm(), fm.PReLU(), fm.Activation("gelu"), fm.Dense(5, 3)]
    fitted, stepped = (fm.MLP(layers, dtype="float64", seed=0) for _ in range(2))
    fitted.fit(X, Y, optimizer=fm.SGD(0.1), epochs=1, batch_size=1, shuffle=False, verbose=0)
    optimizer = fm.SGD(0.1)
    for x, y in zip(X, Y, strict=True):
        stepped.train_step(x, int(y), optimizer=optimizer)
    np.testing.assert_allclose(stepped.get_parameters(), fitted.get_parameters(), rtol=1e-12)


@pytest.mark.parametrize(
    "call",
    [
        lambda net: net.jacobian(X),
        lambda net: net.gradient_norms(X, Y),
        lambda net: net.hessian_product(X, Y, net.get_parameters()),
        lambda net: fm.backprop_trace(net, X[:2], Y[:2]),
        lambda net: fm.finite_difference_gradient(net, X[:2], Y[:2], method="fair"),
    ],
)
def test_what_knows_dense_layers_only_says_so(every_layer, call):
    with pytest.raises(ValueError, match=r"Dense layers only, got BatchNorm\(momentum=0.3"):
        call(every_layer)


# --- Penalties ----------------------------------------------------------------------------


def penalized(l1=0.02, l2=0.3, penalize_bias=False):
    options = {"l1": l1, "l2": l2, "penalize_bias": penalize_bias}
    layers = [fm.Dense(6, 5, "tanh", **options), fm.Dense(5, 4, "tanh"), fm.Dense(4, 3, l2=0.1)]
    net = fm.MLP(layers, dtype="float64", seed=0)
    for bias in net.biases:
        bias[...] = 0.5
    return net


@pytest.mark.parametrize("penalize_bias", [False, True])
def test_loss_and_gradient_have_the_penalties(backend, penalize_bias):
    net = penalized(penalize_bias=penalize_bias)
    plain = fm.MLP([fm.Dense(6, 5, "tanh"), *net.layers[1:2], fm.Dense(4, 3)], dtype="float64")
    plain.set_parameters(net.get_parameters())
    W, b, V = net.weights[0], net.biases[0], net.weights[2]
    value, grad = net.value_and_grad(X, Y)
    expected, slopes = plain.value_and_grad(X, Y)
    added = 0.02 * np.abs(W).sum() + 0.15 * (W**2).sum() + 0.05 * (V**2).sum()
    if penalize_bias:
        added += 0.02 * np.abs(b).sum() + 0.15 * (b**2).sum()
    np.testing.assert_allclose([value, net.loss(X, Y)], expected + added, rtol=1e-12)
    np.testing.assert_allclose(grad.weights[0], slopes.weights[0] + 0.02 * np.sign(W) + 0.3 * W)
    bias_slope = (0.02 * np.sign(b) + 0.3 * b) * penalize_bias
    np.testing.assert_allclose(grad.biases[0], slopes.biases[0] + bias_slope)
    np.testing.assert_allclose(grad.weights[1], slopes.weights[1])
    np.testing.assert_allclose(grad.weights[2], slopes.weights[2] + 0.1 * V)
    np.testing.assert_allclose(net.sample_gradients(X, Y), plain.sample_gradients(X, Y))
    fm.check_gradient(net, X, Y).assert_ok()


def test_one_sample_has_the_penalties(backend):
    net = penalized()
    for _ in range(3):  # the quick way, once it is known
        value, grad = net.value_and_grad(X[0], 1)
        np.testing.assert_allclose(value, net.loss(X[:1], [1]))
        np.testing.assert_allclose(
            grad.to_vector(), net.value_and_grad(X[:1], [1])[1].to_vector(), rtol=1e-12
        )


@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.1}, {"clip_value": 0.01}])
def test_l2_of_everything_is_coupled_weight_decay(backend, options):
    layers = [fm.Dense(6, 5, "tanh", l2=0.3, penalize_bias=True)]
    net = fm.MLP(layers, dtype="float64", seed=0)
    other = fm.MLP([fm.Dense(6, 5, "tanh")], dtype="float64", seed=0)
    decay = {} if options else {"weight_decay": 0.3}
    train_on = {"X": X, "y": X[:, :5], "loss": "quadratic", "epochs": 3, "batch_size": 20}
    for each, rate in ((net, {}), (other, decay)):
        optimizer = fm.Adam(0.01, **rate, **options)
        each.fit(**train_on, optimizer=optimizer, shuffle=False, verbose=0)
    if not options:
        np.testing.assert_allclose(net.get_parameters(), other.get_parameters(), rtol=1e-9)
    else:  # clipping sees the penalty
        assert np.abs(net.get_parameters()).sum() < np.abs(other.get_parameters()).sum()


@pytest.mark.parametrize("n_threads", [2, 3])
def test_steps_with_penalties_do_not_depend_on_threads(backend, n_threads):
    results, before = [], fm.get_num_threads()
    for n in (1, n_threads):
        net = penalized()
        fm.set_num_threads(n)
        try:
            train(net)
        finally:
            fm.set_num_threads(before)
        results.append(net.get_parameters())
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"l1": -1}, ValueError, r"l1 must be a number in \[0, inf\), got -1"),
        ({"l2": np.nan}, ValueError, r"l2 must be a number in \[0, inf\)"),
        ({"penalize_bias": 1}, TypeError, "penalize_bias must be True or False, got 1"),
    ],
)
def test_wrong_penalties_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        fm.Dense(2, 3, **options)


def test_representation_of_penalties():
    layer = fm.Dense(2, 3, l1=0.5, l2=0.25, penalize_bias=True)
    assert repr(layer).endswith("activation='identity', l1=0.5, l2=0.25, penalize_bias=True)")
    assert eval(repr(layer), vars(fm)) == layer


def test_a_trace_leaves_dropout_out():
    net = with_dropout()
    trace = fm.backprop_trace(net, X[:5], Y[:5])
    _, grad = net.value_and_grad(X[:5], Y[:5])
    np.testing.assert_allclose(trace.layers[1].grad_weight, grad.weights[2], rtol=1e-10)
    np.testing.assert_allclose(trace.layers[0].grad_weight, grad.weights[0], rtol=1e-10)


def test_kinks_of_learned_rectifiers_are_recognised(backend):
    net = fm.MLP([fm.Dense(6, 5), fm.PReLU(), fm.Dense(5, 3)], dtype="float64", seed=0)
    net.biases[0][0] = -(X[0] @ net.weights[0][0]) + 1e-9  # on the edge for the first sample
    fm.check_gradient(net, X[:8], Y[:8]).assert_ok()


# --- Memory -------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [fm.BatchNorm, fm.LayerNorm])
def test_training_stays_within_its_workspace(backend, norm, monkeypatch):
    """A network in training has the layers of dropout beside those that it has in use."""
    rng = np.random.default_rng(0)
    net = fm.MLP([fm.Dense(9, 130), norm(), fm.Dropout(0.5), fm.Dense(130, 3)], seed=0)
    X, y = rng.normal(size=(300, 9)), rng.integers(3, size=300)
    workspace, margin, given = net.workspaces.training, 100_000, []

    def guarded(n_rows, n_threads):
        size = len(workspace(n_rows, n_threads))
        given.append(np.full(size + 2 * margin, 7, net.dtype))
        return given[-1][margin:-margin]

    monkeypatch.setattr(net.workspaces, "training", guarded)
    with fm.use_backend(backend):
        net.loss(X, y, training=True)
        net.train_step(X, y, optimizer=fm.SGD(0.1))
        net.fit(X, y, batch_size=300, epochs=1, verbose=0)
    assert len(given) == 3
    for room in given:
        np.testing.assert_array_equal(room[:margin], 7)
        np.testing.assert_array_equal(room[-margin:], 7)

"""Losses and weights as users meet them: parameters, weights, classes, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import fastmlp as fm
from fastmlp.losses import LOSSES

N, N_OUT = 8, 6
RNG = np.random.default_rng(3)
X = RNG.normal(size=(N, 4))
LABELS = np.array([0, 1, 2, 3, 4, 5, 1, 1])

#: Each loss with parameters that are no defaults.
OBJECTIVES = [
    *(LOSSES[name] for name in LOSSES if not LOSSES[name].row.parameters),
    fm.Huber(delta=0.6),
    fm.CrossEntropy(label_smoothing=0.1),
    fm.BinaryCrossEntropy(pos_weight=[1, 2, 3, 4, 5, 6]),
    fm.Pinball(quantiles=(0.1, 0.5, 0.9)),
]
every_loss = pytest.mark.parametrize("loss", OBJECTIVES, ids=repr)


def make_net(n_out=N_OUT, dtype="float64"):
    return fm.MLP.from_sizes([4, 5, n_out], "tanh", dtype=dtype, seed=1)


def make_target(loss, n=N):
    """Return targets of the kind that a loss takes: labels if it may."""
    kind, rng = loss.row.target, np.random.default_rng(5)
    if "labels" in kind:
        return LABELS[:n]
    if kind == "probabilities":
        return rng.random((n, N_OUT))
    if kind == "counts":
        return rng.poisson(2, size=(n, N_OUT))
    return rng.normal(size=(n, loss.n_targets(N_OUT)))


def trained(y, loss, x=X, **weights):
    """Return value, gradient and the parameters after a step on all samples."""
    net = make_net()
    value, grad = net.value_and_grad(x, y, loss, **weights)
    after = make_net()
    step = after.train_step(x, y, loss, **weights, optimizer=fm.SGD(0.1))
    assert value == pytest.approx(net.loss(x, y, loss, **weights), rel=1e-14)
    assert value == pytest.approx(step, rel=1e-14)
    return np.concatenate([[value], grad.to_vector(), after.get_parameters()])


# --- Weights ----------------------------------------------------------------------------------


@every_loss
def test_integer_weights_are_repeated_samples(backend, loss):
    repeats, y = np.arange(N) % 4, make_target(loss)
    with fm.use_backend(backend):
        weighted = trained(y, loss, sample_weight=repeats)
        repeated = trained(np.repeat(y, repeats, axis=0), loss, np.repeat(X, repeats, axis=0))
    np.testing.assert_allclose(weighted, repeated, rtol=1e-12, atol=1e-14)


@every_loss
def test_a_sample_of_weight_zero_is_absent(backend, loss):
    weights, y = np.array([1, 0, 2, 0.5, 0, 3, 1, 1]), make_target(loss)
    present = weights > 0
    x, wrong = X.copy(), y.copy()
    x[1], x[4] = np.nan, np.inf
    wrong[[1, 4]] = 77 if y.dtype.kind == "i" else np.nan
    with fm.use_backend(backend):
        expected = trained(y[present], loss, X[present], sample_weight=weights[present])
        np.testing.assert_array_equal(trained(wrong, loss, x, sample_weight=weights), expected)


@every_loss
def test_fit_leaves_samples_of_weight_zero_out(loss):
    weights, y = np.array([1, 0, 2, 0.5, 0, 3, 1, 1]), make_target(loss)
    present = weights > 0
    x = np.where(present[:, None], X, np.nan)
    options = {"loss": loss, "epochs": 3, "batch_size": 3, "seed": 0, "verbose": 0}
    net, other = make_net(), make_net()
    data = {"sample_weight": weights, "validation_data": (x, y, weights)}
    history = net.fit(x, y, **data, **options)
    rows = (X[present], y[present], weights[present])
    expected = other.fit(*rows[:2], sample_weight=rows[2], validation_data=rows, **options)
    np.testing.assert_array_equal(net.get_parameters(), other.get_parameters())
    assert (history.loss, history.val_loss) == (expected.loss, expected.val_loss)
    assert history.val_loss[-1] == net.loss(X, y, loss, weights)


def test_fit_is_a_sequence_of_weighted_train_steps(backend):
    weights = np.array([1, 3, 2, 0.5, 4, 3, 1, 7])
    net, by_hand = make_net(), make_net()
    with fm.use_backend(backend):
        history = net.fit(
            X, LABELS, sample_weight=weights, optimizer=fm.SGD(0.1), epochs=1, batch_size=3,
            seed=0, verbose=0,
        )  # fmt: skip
        order, optimizer = np.random.default_rng(0).permutation(N), fm.SGD(0.1)
        losses = [
            by_hand.train_step(X[b], LABELS[b], "cross_entropy", weights[b], optimizer=optimizer)
            for b in (order[:3], order[3:6], order[6:])
        ]
    sums = [weights[b].sum() for b in (order[:3], order[3:6], order[6:])]
    assert history.loss[0] == pytest.approx(np.average(losses, weights=sums), rel=1e-12)
    np.testing.assert_allclose(net.get_parameters(), by_hand.get_parameters(), rtol=1e-10)


def test_errors_count_among_the_samples_that_are_present():
    y = np.array([0, 9, 0, 9, 0, 0, 0, 0])
    with pytest.raises(ValueError, match=r"y\[sample_weight > 0\]\[2\] is 9"):
        make_net().loss(X, y, sample_weight=[1, 0, 1, 1, 1, 1, 1, 1])


# --- Class weights ----------------------------------------------------------------------------

BY_CLASS = np.array([1, 2, 0.5, 3, 1, 4])
FORMS = {
    "array": BY_CLASS,
    "mapping": {1: 2, 2: 0.5, 3: 3, 5: 4},
    "numpy keys": dict(zip(np.arange(N_OUT), BY_CLASS, strict=True)),
    "whole floats": dict(zip(map(float, range(N_OUT)), BY_CLASS, strict=True)),
}


@pytest.mark.parametrize("smoothing", [0, 0.2])
@pytest.mark.parametrize("form", FORMS)
def test_class_weights_are_sample_weights(backend, form, smoothing):
    weights = np.linspace(0.5, 2, N)
    loss, plain = fm.CrossEntropy(smoothing, FORMS[form]), fm.CrossEntropy(smoothing)
    with fm.use_backend(backend):
        for given in (None, weights):
            expected = trained(LABELS, plain, sample_weight=BY_CLASS[LABELS] * (
                1 if given is None else given))  # fmt: skip
            actual = trained(LABELS, loss, sample_weight=given)
            np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-15)


def test_bools_are_the_classes_0_and_1():
    net, losses = make_net(2), (fm.CrossEntropy(0, {False: 1, True: 5}), fm.CrossEntropy(0, [1, 5]))
    values = [net.loss(X, LABELS > 1, loss) for loss in losses]
    assert values[0] == values[1] != net.loss(X, LABELS > 1)


def test_a_row_of_probabilities_is_a_sample_of_each_class():
    rows = RNG.dirichlet(np.ones(N_OUT), N)
    expected = trained(
        np.tile(np.arange(N_OUT), N),
        fm.CrossEntropy(0.1, BY_CLASS),
        np.repeat(X, N_OUT, axis=0),
        sample_weight=rows.ravel(),
    )
    actual = trained(rows, fm.CrossEntropy(0.1, BY_CLASS))
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("given", [None, np.linspace(0.5, 2, N)], ids=["equal", "weighted"])
def test_balanced_weights_are_those_of_scikit_learn(given):
    class_weight = pytest.importorskip("sklearn.utils.class_weight")
    labels = np.array([0, 0, 0, 2, 2, 5, 5, 5])  # three classes of six
    if given is None:
        weights = class_weight.compute_sample_weight("balanced", labels)
    else:
        by_class = class_weight.compute_class_weight(
            "balanced", classes=np.unique(labels), y=labels, sample_weight=given
        )
        weights = given * by_class[np.searchsorted([0, 2, 5], labels)]
    actual = trained(labels, fm.CrossEntropy(class_weight="balanced"), sample_weight=given)
    expected = trained(labels, "cross_entropy", sample_weight=weights)
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-15)


def test_validation_uses_the_balance_of_the_training_data():
    net, loss = make_net(), fm.CrossEntropy(class_weight="balanced")
    data = {"validation_data": (X[5:], LABELS[5:]), "verbose": 0}
    history = net.fit(X, LABELS, loss, epochs=2, seed=0, metrics=[number_of_weights], **data)
    counts = np.bincount(LABELS)
    of_training = fm.CrossEntropy(class_weight=N / (N_OUT * counts))
    assert history.val_loss[-1] == pytest.approx(net.loss(X[5:], LABELS[5:], of_training))
    assert history["number_of_weights"] == [0, 0]  # metrics are of samples, not of classes


def number_of_weights(y, output, sample_weight=()):
    return len(sample_weight)


# --- Values -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("huber", fm.Huber(1.0)),
        ("pinball", fm.Pinball([0.5])),
        ("cross_entropy", fm.CrossEntropy()),
        ("binary_cross_entropy", fm.BinaryCrossEntropy(1)),
    ],
)
def test_a_name_means_the_usual_parameters(name, loss):
    net, y = make_net(), make_target(loss)
    assert net.loss(X, y, name) == net.loss(X, y, loss)


def softplus(z):
    return np.logaddexp(0, z)


def log_softmax(o):
    return o - np.log(np.exp(o).sum(axis=1, keepdims=True))


BY_HAND = {
    "huber": (
        fm.Huber(0.6),
        lambda o, t: np.where(np.abs(o - t) < 0.6, (o - t) ** 2 / 2, 0.6 * np.abs(o - t) - 0.18),
    ),
    "smoothed": (
        fm.CrossEntropy(0.3),
        lambda o, t: -N_OUT * (0.7 * np.eye(N_OUT)[t] + 0.05) * log_softmax(o),
    ),
    "positive weights": (
        fm.BinaryCrossEntropy(BY_CLASS),
        lambda o, t: BY_CLASS * t * softplus(-o) + (1 - t) * softplus(o),
    ),
    "pinball": (
        fm.Pinball([0.2, 0.7]),
        lambda o, t: np.maximum(
            np.repeat([0.2, 0.7], 3) * (np.tile(t, 2) - o),
            np.repeat([-0.8, -0.3], 3) * (np.tile(t, 2) - o),
        ),
    ),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_parameters_reach_the_kernels(backend, case):
    loss, by_hand = BY_HAND[case]
    net, y = make_net(), make_target(loss)
    with fm.use_backend(backend):
        assert net.loss(X, y, loss) == pytest.approx(by_hand(net(X), y).mean(), rel=1e-12)


def test_one_weight_of_positives_is_that_of_each_output():
    y = RNG.random((N, N_OUT))
    losses = [fm.BinaryCrossEntropy(weight) for weight in (2.5, [2.5], [2.5] * N_OUT)]
    first, *others = [trained(y, loss) for loss in losses]
    for other in others:
        np.testing.assert_array_equal(other, first)


@pytest.mark.parametrize("n_targets", [1, 2])
def test_pinball_by_hand_and_by_scikit_learn(kernels, dtype, n_targets):
    metrics = pytest.importorskip("sklearn.metrics")
    quantiles = np.array([0.1, 0.5, 0.9])
    output = RNG.normal(size=(N, 3 * n_targets)).astype(dtype)
    target = RNG.normal(size=(N, n_targets)).astype(dtype)
    output[0] = np.tile(target[0], 3)  # the kink
    each, grad = np.empty(N, dtype), np.empty_like(output)
    row, no_labels = LOSSES["pinball"].row, np.empty(0, np.int64)
    kernels.loss_forward(output, target, no_labels, row.code, quantiles, each)
    weights = np.empty(0, dtype)
    kernels.loss_backward(output, target, no_labels, weights, row.code, quantiles, grad)
    expected, slopes = np.zeros(N), np.zeros_like(output)
    for index, tau in enumerate(quantiles):
        for j in range(n_targets):
            column = index * n_targets + j
            for i in range(N):
                miss = float(target[i, j]) - float(output[i, column])
                expected[i] += miss * tau if miss >= 0 else -miss * (1 - tau)
                slope = -tau if miss > 0 else 1 - tau if miss < 0 else 0
                slopes[i, column] = slope / (3 * n_targets * N)
    tolerance = {np.float32: 2e-6, np.float64: 1e-12}[dtype]
    np.testing.assert_allclose(each, expected / (3 * n_targets), rtol=tolerance)
    np.testing.assert_allclose(grad, slopes, rtol=tolerance)
    of_sklearn = [
        metrics.mean_pinball_loss(target, output[:, i * n_targets :][:, :n_targets], alpha=tau)
        for i, tau in enumerate(quantiles)
    ]
    assert each.mean() == pytest.approx(np.mean(of_sklearn), rel=tolerance)


def test_hinge_of_signs_is_that_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    net = make_net(1)
    y = np.sign(RNG.normal(size=N))
    expected = metrics.hinge_loss(y, net(X)[:, 0])
    assert net.loss(X, y, "hinge") == pytest.approx(expected, rel=1e-12)
    assert net.loss(X, y[:, None], "hinge") == net.loss(X, y, "hinge")


def test_quantiles_are_learned():
    y = np.random.default_rng(0).exponential(size=(2000, 1))
    net = fm.MLP.from_sizes([1, 3], dtype="float64", seed=0)
    loss = fm.Pinball((0.1, 0.5, 0.9))
    net.fit(np.zeros((2000, 1)), y, loss, fm.SGD(0.3), epochs=30, seed=0, verbose=0)
    np.testing.assert_allclose(net.biases[0], -np.log([0.9, 0.5, 0.1]), atol=0.15)


def test_mean_and_variance_are_learned():
    y = np.random.default_rng(0).normal(3, 0.5, size=2000)
    net = fm.MLP.from_sizes([1, 2], dtype="float64", seed=0)
    net.fit(np.zeros((2000, 1)), y, "gaussian_nll", fm.Adam(0.02), epochs=40, seed=0, verbose=0)
    mean, log_variance = net.biases[0]
    assert mean == pytest.approx(3, abs=0.1)
    assert np.exp(log_variance / 2) == pytest.approx(0.5, rel=0.1)


# --- What is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: fm.Huber(0), ValueError, r"delta must be a number in \(0, inf\), got 0"),
        (lambda: fm.Huber("1"), TypeError, "delta must be a number"),
        (lambda: fm.Pinball(()), ValueError, "quantiles must hold at least one number"),
        (lambda: fm.Pinball(0.5), TypeError, "quantiles must be a list of numbers"),
        (lambda: fm.Pinball([0.5, 1]), ValueError, r"quantiles\[1\] .* in \(0, 1\), got 1"),
        (lambda: fm.Pinball([0.0]), ValueError, r"quantiles\[0\] .* in \(0, 1\), got 0.0"),
        (lambda: fm.CrossEntropy(1), ValueError, r"label_smoothing .* in \[0, 1\), got 1"),
        (lambda: fm.CrossEntropy(0, "equal"), ValueError, "class_weight must be 'balanced', a map"),
        (lambda: fm.BinaryCrossEntropy(0), ValueError, "pos_weight must be a number above 0"),
        (lambda: fm.BinaryCrossEntropy([[1]]), ValueError, "pos_weight must be a number above 0"),
        (lambda: fm.BinaryCrossEntropy(np.inf), ValueError, "pos_weight must be finite"),
    ],
)
def test_wrong_parameters_are_refused(build, error, message):
    with pytest.raises(error, match=message):
        build()


ROWS = np.ones((N, N_OUT))
WRONG = [
    (fm.Huber, ROWS, TypeError, r"got the class: write Huber\(\)"),
    (
        fm.BinaryCrossEntropy([1, 2]),
        ROWS,
        ValueError,
        "one number or 6, one for each output, got 2",
    ),
    (fm.Pinball([0.1] * 4), ROWS, ValueError, "takes 4 outputs for each .* has 6: use a multiple"),
    (fm.Pinball([0.1, 0.9]), ROWS, ValueError, r"rows of 3 numbers, which 'pinball' has outputs"),
    ("gaussian_nll", ROWS, ValueError, r"rows of 3 numbers, which 'gaussian_nll' has .*\(8, 6\)"),
    ("poisson", -ROWS, ValueError, r"counts of at least 0, but y\[0, 0\] is -1.0"),
    ("poisson", np.nan * ROWS, ValueError, "counts of at least 0, .* is nan"),
    ("hinge", 0 * ROWS, ValueError, r"−1 for no and 1 for yes \(2 \* y - 1 if y is 0 or 1\), but"),
    ("squared_hinge", LABELS + 1, ValueError, "labels from 0 to 5"),
    ("hinge", LABELS / 2, TypeError, "integer labels or rows of 6 signs"),
    ("mae", ROWS[:, :3], ValueError, r"rows of 6 numbers, the network's outputs, got .*\(8, 3\)"),
    (fm.CrossEntropy(0, [1, 2]), LABELS, ValueError, r"class_weight must have shape \(6,\)"),
    (fm.CrossEntropy(0, {6: 1}), LABELS, ValueError, "classes 0 to 5, .* got 6"),
    (fm.CrossEntropy(0, {1: 0}), LABELS, ValueError, r"class_weight\[1\] must be a number in \(0"),
    (fm.CrossEntropy(0, [0] * 6), LABELS, ValueError, "numbers above 0, .* a sample_weight of 0"),
]


@pytest.mark.parametrize("method", ["loss", "value_and_grad", "train_step", "fit"])
@pytest.mark.parametrize(("loss", "y", "error", "message"), WRONG)
def test_what_does_not_fit_is_refused(method, loss, y, error, message):
    net = make_net()
    options = {"optimizer": fm.SGD(0.1)} if method in ("train_step", "fit") else {}
    before = net.get_parameters()
    with pytest.raises(error, match=message):
        getattr(net, method)(X, y, loss, **options)
    np.testing.assert_array_equal(net.get_parameters(), before)


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy"])
def test_probabilities_are_not_taken_for_logits(loss):
    net = fm.MLP.from_sizes([4, 3], output_activation="sigmoid", seed=0)
    applied = "sigmoid" if "binary" in loss else "softmax"
    with pytest.raises(ValueError, match=f"applies the {applied} itself, .* use 'identity'"):
        net.loss(X, np.eye(3)[LABELS % 3], loss)
    with pytest.raises(ValueError, match="but the last activation is 'softmax'"):
        LOSSES[loss].check_network(3, "softmax")


def test_classes_need_an_output_each():
    with pytest.raises(ValueError, match="has 1 output: use 'binary_cross_entropy'"):
        make_net(1).loss(X, LABELS * 0)


# --- Metrics ----------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [None, np.linspace(0, 2, N)], ids=["equal", "weighted"])
@pytest.mark.parametrize(
    ("name", "of_sklearn"),
    [
        ("mae", "mean_absolute_error"),
        ("mse", "mean_squared_error"),
        ("r2", "r2_score"),
    ],
)
def test_metrics_are_those_of_scikit_learn(name, of_sklearn, weights):
    metrics = pytest.importorskip("sklearn.metrics")
    y, output = RNG.normal(size=(2, N, 3))
    y[:, 1] = 2  # no spread
    expected = getattr(metrics, of_sklearn)(y, output, sample_weight=weights)
    assert getattr(fm.metrics, name)(y, output, weights) == pytest.approx(expected, rel=1e-12)
    assert getattr(fm.metrics, name)(y, y, weights) == getattr(metrics, of_sklearn)(y, y)
    if name == "mse":
        assert fm.metrics.rmse(y, output, weights) == pytest.approx(np.sqrt(expected))


def test_accuracies():
    y, output = np.array([[1, -1], [1, 1], [-1, -1]]), np.array([[2, -1], [-1, 3], [1, 2]])
    assert fm.metrics.binary_accuracy(y, output) == 0.5
    assert fm.metrics.binary_accuracy(y, output, np.array([3, 0, 1])) == 0.75
    assert fm.metrics.accuracy(np.array([0, 0, 1]), output, np.array([3, 2, 1])) == 4 / 6


def test_metrics_need_a_number_for_each_output():
    with pytest.raises(ValueError, match=r"got y of shape \(8,\) for outputs of shape \(8, 2\)"):
        fm.metrics.mae(np.ones(8), np.ones((8, 2)))


@pytest.mark.parametrize("metric", ["accuracy", "binary_accuracy"])
@pytest.mark.parametrize("activation", ["sigmoid", "hard_sigmoid", "softplus"])
def test_probabilities_are_not_taken_for_answers(metric, activation):
    net, y = fm.MLP.from_sizes([4, 1], output_activation=activation, seed=0), LABELS % 2
    before, generator = net.get_parameters(), np.random.default_rng(0)
    for given in (metric, getattr(fm.metrics, metric)):
        with pytest.raises(ValueError, match=rf"metric '{metric}' takes .* use 'identity' there"):
            net.fit(X, y, "mse", metrics=["mae", given], seed=generator, verbose=0)
    np.testing.assert_array_equal(net.get_parameters(), before)
    assert generator.random() == np.random.default_rng(0).random()


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_metrics_of_several_probabilities(activation):
    net = fm.MLP.from_sizes([4, N_OUT], output_activation=activation, seed=0)
    options = {"epochs": 1, "seed": 0, "verbose": 0}
    history = net.fit(X, np.eye(N_OUT)[LABELS], "mse", metrics=["accuracy"], **options)
    assert history["accuracy"] == [np.mean(net(X).argmax(axis=1) == LABELS)]
    with pytest.raises(ValueError, match="metric 'binary_accuracy' takes outputs above 0"):
        net.fit(X, np.eye(N_OUT)[LABELS], "mse", metrics=["binary_accuracy"], **options)


def test_activations_that_are_above_0_for_no_are_known():
    for name, row in fm.activations.ACTIVATIONS.items():
        layer = fm.Activation(name, n_features=2)
        net = fm.MLP([fm.Dense(2, 2), layer], dtype="float64", seed=0)
        net.weights[0][...] = np.eye(2)
        above = (net(np.full(2, -1.0)) > 0).all()
        assert above == (row.name in fm.metrics.ABOVE_ZERO), name


def test_metrics_get_weights_if_they_take_them():
    seen = []

    def plain(y, output):
        seen.append(y)
        return len(y)

    weights = np.array([1, 0, 2, 0.5, 0, 3, 1, 1])
    net = make_net()
    options = {"sample_weight": weights, "epochs": 1, "seed": 0, "verbose": 0}
    history = net.fit(X, LABELS, metrics=["accuracy", plain, max_weight], **options)
    np.testing.assert_array_equal(seen[0], LABELS[weights > 0])
    hits = net(X).argmax(axis=1) == LABELS
    assert history["accuracy"][0] == pytest.approx(np.average(hits, weights=weights))
    assert history["max_weight"] == [3]


def max_weight(y, output, sample_weight):
    return sample_weight.max()

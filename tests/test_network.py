"""The network: views, vectors, copies, and what forward, loss and gradient return."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fastmlp as fm
from fastmlp import network, parameters

X = np.random.default_rng(3).normal(size=(7, 4))


def forward_by_hand(net, x):
    """Compute a network of tanh layers with an identity at the end."""
    for weight, bias in zip(net.weights[:-1], net.biases[:-1], strict=True):
        x = np.tanh(x @ weight.T + bias)
    return x @ net.weights[-1].T + net.biases[-1]


@pytest.fixture
def net():
    return fm.MLP.from_sizes([4, 5, 6, 3], activation="tanh", dtype="float64", seed=1)


def test_forward_is_the_lecture_s_formula(net, backend):
    with fm.use_backend(backend):
        np.testing.assert_allclose(net(X), forward_by_hand(net, X), rtol=1e-13, atol=1e-14)


def test_views_are_writable_and_seen_by_the_kernels(net):
    weight = np.arange(30.0).reshape(6, 5)
    net.weights[1][...] = weight
    net.biases[1][2] = 7
    np.testing.assert_array_equal(net.weights[1], weight)
    np.testing.assert_allclose(net(X), forward_by_hand(net, X), rtol=1e-13, atol=1e-14)
    with pytest.raises(TypeError):
        net.weights[0] = weight


@pytest.mark.parametrize("sizes", [(4, 3), (4, 5, 6, 3), (2, 1024, 1)])
def test_vector_has_each_weight_by_rows_then_its_bias(sizes, dtype):
    net = fm.MLP.from_sizes(sizes, dtype=dtype, seed=0)
    parts = [p for w, b in zip(net.weights, net.biases, strict=True) for p in (w.flatten(), b)]
    vector = net.get_parameters()
    assert vector.dtype == dtype
    assert len(vector) == net.n_parameters
    np.testing.assert_array_equal(vector, np.concatenate(parts))


def test_set_parameters_is_the_inverse_of_get_parameters(net):
    vector = np.random.default_rng(0).normal(size=net.n_parameters)
    net.set_parameters(vector)
    np.testing.assert_array_equal(net.get_parameters(), vector)
    arena = net.parameters.arena
    assert np.count_nonzero(arena) == len(vector)  # the padding is still 0


def test_set_parameters_from_the_networks_own_memory(net):
    vector = net.parameters.arena[: net.n_parameters]  # padding included
    expected = vector.copy()
    net.set_parameters(vector)
    np.testing.assert_array_equal(net.get_parameters(), expected)


def test_gradient_is_laid_out_as_the_parameters(net):
    _, grad = net.value_and_grad(X, X[:, :3], "quadratic")
    assert [w.shape for w in grad.weights] == [w.shape for w in net.weights]
    parts = [p for w, b in zip(grad.weights, grad.biases, strict=True) for p in (w.flatten(), b)]
    np.testing.assert_array_equal(grad.to_vector(), np.concatenate(parts))
    # ∂L/∂b of a last linear layer is the mean of o − t.
    np.testing.assert_allclose(grad.biases[-1], (net(X) - X[:, :3]).mean(axis=0), rtol=1e-12)


@pytest.mark.parametrize("training", [False, True])
def test_gradients_need_no_zeros_to_start_from(every_layer, backend, training, monkeypatch):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(9, every_layer.n_in)), rng.integers(0, every_layer.n_out, 9)
    twin = copy.deepcopy(every_layer)  # it draws the same masks
    _, expected = twin.value_and_grad(X, y, training=training)
    monkeypatch.setattr(
        parameters.arena, "aligned_empty", lambda n, dtype: np.full(n, np.nan, dtype)
    )
    _, grad = every_layer.value_and_grad(X, y, training=training)
    np.testing.assert_array_equal(grad.to_vector(), expected.to_vector())
    padding = np.delete(grad.arena, grad.layout.indices)
    assert len(padding) > 0
    assert not padding.any()


def test_losses_are_their_definitions(net, backend):
    z, labels = net(X), np.arange(7) % 3
    target = np.random.default_rng(0).dirichlet(np.ones(3), 7)
    log_softmax = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    p = 1 / (1 + np.exp(-z))
    expected = {
        "quadratic": (np.square(z - target).sum(axis=1) / 2).mean(),
        "mse": np.square(z - target).mean(),
        "cross_entropy": -(target * log_softmax).sum(axis=1).mean(),
        "binary_cross_entropy": -(target * np.log(p) + (1 - target) * np.log(1 - p)).mean(),
    }
    with fm.use_backend(backend):
        for loss, value in expected.items():
            assert net.loss(X, target, loss) == pytest.approx(value, rel=1e-12), loss
        of_labels = -log_softmax[np.arange(7), labels].mean()
        assert net.loss(X, labels) == pytest.approx(of_labels, rel=1e-12)


def test_sample_weights_repeat_samples(net):
    y, repeats = np.arange(7) % 3, np.array([2, 0, 1, 3, 1, 1, 1])
    value, grad = net.value_and_grad(X, y, sample_weight=repeats)
    repeated = np.repeat(X, repeats, axis=0), np.repeat(y, repeats)
    expected, expected_grad = net.value_and_grad(*repeated)
    assert value == pytest.approx(expected, rel=1e-12)
    assert net.loss(X, y, sample_weight=repeats) == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(grad.to_vector(), expected_grad.to_vector(), rtol=1e-10, atol=1e-15)


def test_blocks_change_nothing(net, monkeypatch):
    y, weights = np.arange(7) % 3, np.array([0, 0, 0, 1, 2, 0.5, 3])
    expected = net(X), net.loss(X, y), net.loss(X, y, sample_weight=weights)
    monkeypatch.setattr(network, "ROWS_PER_CALL", 3)
    np.testing.assert_allclose(net.predict(X.tolist()), expected[0], rtol=1e-13)
    assert net.loss(X, y) == pytest.approx(expected[1], rel=1e-13)
    assert net.loss(X, y, sample_weight=weights) == pytest.approx(expected[2], rel=1e-13)


def test_no_samples_give_no_outputs(net):
    for outputs in (net(X[:0]), net.predict(X[:0]), net.forward(X[:0], np.empty((0, 3)))):
        assert outputs.shape == (0, 3)


def test_predict_takes_one_sample(net):
    np.testing.assert_array_equal(net.predict(X[2]), net(X[2]))


def test_forward_fills_and_returns_the_buffer(net):
    for x in (X, X[0]):
        out = np.full_like(net(x), np.nan)
        assert net.forward(x, out=out) is out
        np.testing.assert_array_equal(out, net(x))


DUPLICATES = [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))]


@pytest.mark.parametrize("duplicate", DUPLICATES)
def test_copies_are_independent_and_aligned(net, duplicate):
    net(X)  # workspaces exist and must not be shared or pickled
    other = duplicate(net)
    assert other.parameters.arena.ctypes.data % 64 == 0
    assert repr(other) == repr(net)
    np.testing.assert_array_equal(other(X), net(X))
    other.weights[0][...] = 0
    assert net.weights[0].any()


@pytest.mark.parametrize("duplicate", DUPLICATES)
def test_copies_of_gradients_are_independent_and_aligned(net, duplicate):
    _, grad = net.value_and_grad(X, np.zeros(7, int))
    assert grad.weights[0].any()  # its views exist and must not be shared or pickled
    other = duplicate(grad)
    assert other.arena.ctypes.data % 64 == 0
    assert repr(other) == repr(grad)
    np.testing.assert_array_equal(other.arena, grad.arena)
    other.weights[0][...] = 0
    assert not other.to_vector()[:20].any()
    assert grad.weights[0].any()


def test_astype_copies(net):
    single = net.astype("float32")
    assert single.dtype == np.float32
    np.testing.assert_array_equal(single.get_parameters(), net.get_parameters().astype(np.float32))
    single.biases[0][...] = 5
    assert not net.biases[0].any()


def test_concurrent_calls_do_not_share_a_workspace():
    net = fm.MLP.from_sizes([64, 256, 256, 10], seed=0)
    batches = np.random.default_rng(0).normal(size=(16, 50, 64)).astype(np.float32)
    y = np.arange(50) % 10
    expected = [net.value_and_grad(x, y)[1].to_vector() for x in batches]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            found = pool.map(lambda x: net.value_and_grad(x, y)[1].to_vector(), batches)
            for vector, right in zip(found, expected, strict=True):
                np.testing.assert_array_equal(vector, right)


def test_workspace_is_kept_while_it_suffices(net):
    workspaces = net.workspaces
    large = workspaces.training(50, 2)
    assert workspaces.training(10, 1) is large
    assert workspaces.training(51, 1) is not large
    assert workspaces.forward(10, 1) is workspaces.forward(4, 1)


def test_layers_and_reprs():
    net = fm.MLP([fm.Dense(4, 5, "leaky_relu", alpha=0.2), fm.Dense(5, 3)], seed=0)
    assert repr(net) == "MLP(4-5-3; leaky_relu, identity; 43 parameters; float32)"
    assert repr(net.layers[0]) == "Dense(4, 5, activation='leaky_relu', alpha=0.2)"
    assert (net.n_in, net.n_out, net.n_parameters) == (4, 3, 43)
    assert eval(repr(net.layers[0]), {"Dense": fm.Dense}) == net.layers[0]
    _, grad = net.value_and_grad(X, np.zeros(7, int))
    assert repr(grad).startswith("Gradient(43 entries, norm ")


def test_an_activation_has_other_names():
    swish, silu = (fm.MLP.from_sizes([3, 4, 2], activation=n, seed=0) for n in ("swish", "silu"))
    x = np.linspace(-1, 1, 3)
    np.testing.assert_array_equal(swish(x), silu(x))


def test_alpha_is_the_slope_below_zero(backend):
    net = fm.MLP([fm.Dense(4, 4, "leaky_relu", alpha=0.3)], dtype="float64")
    net.weights[0][...] = np.eye(4)
    with fm.use_backend(backend):
        np.testing.assert_allclose(net(X), np.where(X > 0, X, 0.3 * X), rtol=1e-15)


def test_softmax_and_sigmoid(backend, dtype):
    z = np.array([[[0, 1, 2], [-1000, 0, 1000]]], dtype)
    with fm.use_backend(backend):
        p, s = fm.softmax(z), fm.sigmoid(z)
        assert fm.sigmoid(0) == 0.5
    shifted = np.exp(z.astype(np.float64) - z.max(axis=-1, keepdims=True))
    tolerance = 8 * np.finfo(dtype).eps
    assert p.dtype == s.dtype == dtype
    np.testing.assert_allclose(p, shifted / shifted.sum(axis=-1, keepdims=True), rtol=tolerance)
    np.testing.assert_allclose(s[0, 0], 1 / (1 + np.exp(-z[0, 0])), rtol=tolerance)
    np.testing.assert_array_equal(s[0, 1], [0, 0.5, 1])


def test_softmax_needs_classes_and_keeps_empty_shapes():
    assert fm.softmax(np.empty((0, 3))).shape == (0, 3)
    assert fm.softmax([1, 1]).dtype == np.float64
    with pytest.raises(ValueError, match="logits must have an axis of classes"):
        fm.softmax(1.0)

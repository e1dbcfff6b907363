"""Wrong input is refused with the argument, what was expected and what came; odd input works."""

from __future__ import annotations

import numpy as np
import pytest

import fastmlp as fm
from fastmlp import activations, network

X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2])
ROWS = np.eye(3, dtype=np.float32)[LABELS]


@pytest.fixture
def net():
    return fm.MLP.from_sizes([4, 5, 3], activation="tanh", seed=1)


# --- Input that works -----------------------------------------------------------------------


def _memory_mapped(x, tmp_path):
    np.save(tmp_path / "x.npy", x)
    return np.load(tmp_path / "x.npy", mmap_mode="r")


def _read_only(x, tmp_path):
    x = x.copy()
    x.flags.writeable = False
    return x


def _misaligned(x, tmp_path):
    buffer = bytearray(1) + bytearray(x.tobytes())
    return np.frombuffer(buffer, x.dtype, offset=1).reshape(x.shape)


def _data_frame(x, tmp_path):
    return pytest.importorskip("pandas").DataFrame(x)


FORMS = {
    "list": lambda x, _: x.tolist(),
    "data frame": _data_frame,
    "Fortran order": lambda x, _: np.asfortranarray(x),
    "strided rows": lambda x, _: np.repeat(x, 2, axis=0)[::2],
    "strided columns": lambda x, _: np.repeat(x, 2, axis=1)[:, ::2],
    "reversed": lambda x, _: x[::-1].copy()[::-1],
    "part of wider rows": lambda x, _: np.pad(x, ((0, 0), (1, 2)))[:, 1:-2],
    "other byte order": lambda x, _: x.astype(x.dtype.newbyteorder()),
    "float64": lambda x, _: x.astype(np.float64),
    "read-only": _read_only,
    "memory-mapped": _memory_mapped,
    "misaligned": _misaligned,
}


@pytest.mark.parametrize("form", FORMS)
def test_form_of_input_does_not_matter(net, tmp_path, form):
    x = FORMS[form](X, tmp_path)
    np.testing.assert_array_equal(net(x), net(X))
    np.testing.assert_array_equal(net.predict(x), net.predict(X))
    value, grad = net.value_and_grad(x, LABELS)
    expected, expected_grad = net.value_and_grad(X, LABELS)
    assert value == expected
    np.testing.assert_array_equal(grad.to_vector(), expected_grad.to_vector())


def test_logits_may_be_misaligned(tmp_path, monkeypatch):
    z, seen = _misaligned(X, tmp_path), []
    expected = fm.softmax(X), fm.sigmoid(X)
    kernels = activations.current_kernels()

    class Recorder:
        def __getattr__(self, name):
            return lambda z, *rest: seen.append(z) or getattr(kernels, name)(z, *rest)

    monkeypatch.setattr(activations, "current_kernels", Recorder)
    np.testing.assert_array_equal(fm.softmax(z), expected[0])
    np.testing.assert_array_equal(fm.sigmoid(z), expected[1])
    assert len(seen) == 2
    assert all(array.flags.aligned for array in seen)


def test_targets_labels_and_weights_may_be_misaligned(net, tmp_path):
    weights = np.arange(6, dtype=np.float32)
    labels, rows, w = (_misaligned(a, tmp_path) for a in (LABELS, ROWS, weights))
    assert not any(array.flags.aligned for array in (labels, rows, w))
    for y, expected in ((labels, LABELS), (rows, ROWS)):
        _, batch = network.make_batch(net, X, y, "cross_entropy", w)
        assert all(array.flags.aligned for array in batch)
        assert net.loss(X, y, sample_weight=w) == net.loss(X, expected, sample_weight=weights)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint64, np.float16, np.longdouble])
def test_other_real_dtypes_are_converted(net, dtype):
    x = (X > 0).astype(dtype)
    np.testing.assert_array_equal(net(x), net((X > 0).astype(np.float32)))


def test_what_the_kernels_can_read_is_not_copied():
    wide = np.zeros((6, 9), np.float32)
    for x in (X, wide[:, 2:6], wide[::2, 2:6]):
        rows, single = fm._validation.as_samples(x, 4, np.dtype(np.float32))
        assert np.shares_memory(rows, x)
        assert not single


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32, np.int64, np.uint64])
def test_integer_dtypes_of_labels(net, dtype):
    labels = LABELS % 2
    assert net.loss(X, labels.astype(dtype)) == net.loss(X, labels)
    assert net.loss(X, labels.astype(dtype)[::-1][::-1]) == net.loss(X, labels)


def test_labels_equal_their_rows_of_probabilities(net):
    assert net.loss(X, LABELS) == pytest.approx(net.loss(X, ROWS), rel=1e-6)
    assert net.loss(X, ROWS.astype(int)) == net.loss(X, ROWS)


def test_series_of_labels(net):
    pandas = pytest.importorskip("pandas")
    assert net.loss(X, pandas.Series(LABELS)) == net.loss(X, LABELS)


@pytest.mark.parametrize("loss", ["quadratic", "mse", "binary_cross_entropy"])
def test_one_output_takes_one_number_a_sample(loss):
    net = fm.MLP.from_sizes([4, 3, 1], seed=0)
    y = np.array([0, 1, 1, 0, 1, 0])
    assert net.loss(X, y, loss) == net.loss(X, y[:, None].astype(np.float32), loss)
    assert net.loss(X[1], 1, loss) == net.loss(X[1:2], y[1:2], loss)


def test_a_single_sample_is_a_batch_of_one(net):
    assert net(X[0]).shape == (3,)
    np.testing.assert_allclose(net(X[0]), net(X[:1])[0], rtol=1e-6)
    for y, rows in ((2, LABELS[2:3]), (ROWS[2], ROWS[2:3])):
        assert net.loss(X[2], y) == pytest.approx(net.loss(X[2:3], rows), rel=1e-6)


# --- Input that is refused ------------------------------------------------------------------

WRONG = [
    # X
    ({"X": X[:, :3]}, ValueError, "X has 3 features, but the network takes 4"),
    ({"X": X[None]}, ValueError, r"X must have shape \(n_samples, 4\).*, got \(1, 6, 4\)"),
    ({"X": np.float32(1)}, ValueError, r"X must have shape .*, got \(\)"),
    ({"X": X.astype(complex)}, TypeError, "X must hold real numbers, got dtype complex128"),
    ({"X": X.astype(object)}, TypeError, "X must hold real numbers, got dtype object"),
    ({"X": X.astype(str)}, TypeError, "X must hold real numbers, got dtype <U"),
    ({"X": [[1.0, 2], [3]]}, ValueError, "X must be an array of numbers: .*inhomogeneous"),
    ({"X": X[:0], "y": LABELS[:0]}, ValueError, "X is empty: at least one sample is needed"),
    # y
    ({"y": LABELS[:5]}, ValueError, "y has 5 samples, but X has 6"),
    ({"y": 1}, ValueError, "y has no axis of samples, but X has 6 samples"),
    ({"y": LABELS + 1}, ValueError, r"labels from 0 to 2.*but y\[2\] is 3"),
    ({"y": LABELS - 1}, ValueError, r"labels from 0 to 2.*but y\[0\] is -1"),
    ({"y": np.uint64(2**64 - 1) - LABELS.astype(np.uint64)}, ValueError, "labels from 0 to 2"),
    ({"y": LABELS * 1.0}, TypeError, "integer labels or rows of 3 probabilities, got float64"),
    ({"y": ROWS[:, :2]}, ValueError, r"rows of 3 numbers, .*, got shape \(6, 2\)"),
    ({"y": ROWS * 2}, ValueError, r"probabilities, but y\[0, 0\] is 2.0"),
    ({"y": -ROWS}, ValueError, r"probabilities, but y\[0, 0\] is -1.0"),
    ({"y": ROWS * np.nan}, ValueError, r"probabilities, but y\[0, 0\] is nan"),
    ({"y": ROWS * 0.9}, ValueError, r"sum to 1, but row 0 sums to 0.9"),
    ({"y": LABELS, "loss": "mse"}, ValueError, r"y must hold rows of 3 numbers.*shape \(6,\)"),
    ({"y": ROWS + 0.5, "loss": "binary_cross_entropy"}, ValueError, r"but y\[0, 0\] is 1.5"),
    ({"y": ["a"] * 6}, TypeError, "y must hold real numbers, got dtype <U1"),
    # loss
    ({"loss": "cross_entrpy"}, ValueError, r"loss must be one of .*nearest: 'cross_entropy'"),
    ({"loss": "xyzzy"}, ValueError, "loss must be one of 'quadratic', 'mse'.*, got 'xyzzy'$"),
    ({"loss": 3}, TypeError, "loss must be one of .*, got 3"),
]


@pytest.mark.parametrize("method", ["loss", "value_and_grad", "train_step", "fit"])
@pytest.mark.parametrize(("change", "error", "message"), WRONG)
def test_wrong_samples_are_refused(net, method, change, error, message):
    options = {"X": X, "y": LABELS, "loss": "cross_entropy"} | change
    if method in ("train_step", "fit"):
        options["optimizer"] = fm.SGD(0.1)
    if method == "fit":
        options["verbose"] = 0
    before = net.get_parameters()
    with pytest.raises(error, match=message):
        getattr(net, method)(**options)
    np.testing.assert_array_equal(net.get_parameters(), before)
    assert "optimizer" not in options or options["optimizer"].step_count == 0


@pytest.mark.parametrize("method", ["forward", "predict"])
@pytest.mark.parametrize(
    ("change", "error", "message"), [row for row in WRONG[:7] if "X" in row[0]]
)
def test_wrong_inputs_are_refused(net, method, change, error, message):
    with pytest.raises(error, match=message):
        getattr(net, method)(**change)


@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [
        ([1, 2], ValueError, r"sample_weight must have shape \(6,\), got \(2,\)"),
        ([1, 1, 1, 1, 1, -1], ValueError, "sample_weight must hold weights of at least 0"),
        ([0] * 6, ValueError, "not only zeros"),
        ([1, 1, np.nan, 1, 1, 1], ValueError, r"sample_weight\[2\] is nan"),
        ([1j] * 6, TypeError, "sample_weight must hold real numbers"),
    ],
)
def test_wrong_sample_weights_are_refused(net, weight, error, message):
    with pytest.raises(error, match=message):
        net.loss(X, LABELS, sample_weight=weight)


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("X", np.nan, r"X must be finite in float32, but X\[3, 2\] is nan"),
        ("X", -np.inf, r"X\[3, 2\] is -inf"),
        ("X", 1e300, r"X must be finite in float32, but X\[3, 2\] is inf"),
        ("y", np.nan, r"y must be finite in float32, but y\[3, 2\] is nan"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_fit_refuses_what_is_not_finite(net, where, value, message):
    data = {"X": X.astype(np.float64), "y": ROWS.astype(np.float64)}
    data[where][3, 2] = value
    with pytest.raises(ValueError, match=message):
        net.fit(**data, loss="mse", verbose=0)


def test_large_finite_numbers_are_not_refused(net):
    # Though their sum is infinite.
    x = np.full((4, 4), np.finfo(np.float32).max)
    fm._validation.check_finite("X", x)


def test_validation_data_are_checked_by_name(net):
    bad = X.copy()
    bad[1, 0] = np.nan
    options = {"verbose": 0}
    with pytest.raises(ValueError, match=r"validation_data\[0\] must be finite"):
        net.fit(X, LABELS, validation_data=(bad, LABELS), **options)
    with pytest.raises(ValueError, match=r"validation_data\[1\] must hold labels"):
        net.fit(X, LABELS, validation_data=(X, LABELS + 9), **options)
    with pytest.raises(
        TypeError, match=r"validation_data must be a pair \(X, y\), or .*, got ndarray"
    ):
        net.fit(X, LABELS, validation_data=X, **options)
    with pytest.raises(ValueError, match=r"must be a pair .*, got a tuple of 1"):
        net.fit(X, LABELS, validation_data=(X,), **options)


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (np.empty((6, 2), np.float32), ValueError, r"out must have shape \(6, 3\), got \(6, 2\)"),
        (np.empty((6, 3)), TypeError, "out must be an array of float32, got float64"),
        ([[0.0] * 3] * 6, TypeError, "out must be an array of float32, got list"),
        (np.empty((6, 6), np.float32)[:, ::2], ValueError, "out must have contiguous rows"),
        (np.broadcast_to(np.float32(0), (6, 3)), ValueError, "out must be writable"),
        (_misaligned(ROWS, None), ValueError, "out must start at a multiple of 4 bytes"),
    ],
)
def test_wrong_buffers_are_refused(net, out, error, message):
    with pytest.raises(error, match=message):
        net.forward(X, out)


def test_buffer_must_not_overlap_the_input(net):
    both = np.zeros((6, 7), np.float32)
    with pytest.raises(ValueError, match="out must not overlap X"):
        net.forward(both[:, :4], both[:, 3:6])
    both[:, :4] = X
    np.testing.assert_array_equal(net.forward(both[:, :4], both[:, 4:]), net(X))


def test_buffer_must_not_overlap_the_parameters(net):
    before = net.get_parameters()
    for x, out in ((X[0], net.biases[-1]), (X, net.parameters.arena[:18].reshape(6, 3))):
        with pytest.raises(ValueError, match="out must not overlap the network's parameters"):
            net.forward(x, out)
    np.testing.assert_array_equal(net.get_parameters(), before)


def test_sigmoid_twice_is_refused():
    net = fm.MLP.from_sizes([4, 1], output_activation="sigmoid", seed=0)
    with pytest.raises(ValueError, match="applies the sigmoid itself"):
        net.loss(X, LABELS % 2, "binary_cross_entropy")
    assert net.loss(X, LABELS % 2, "mse") > 0


def _named(name):
    def metric(y, output):
        return 0.0

    metric.__name__ = name
    return metric


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epochs": 0}, ValueError, "epochs must be an integer of at least 1, got 0"),
        ({"epochs": 1.5}, TypeError, "epochs must be an integer of at least 1, got 1.5"),
        ({"batch_size": True}, TypeError, "batch_size must be an integer"),
        ({"batch_size": -1}, ValueError, "batch_size must be an integer of at least 1, got -1"),
        ({"verbose": 3}, ValueError, "verbose must be 0, 1 or 2, got 3"),
        ({"optimizer": "adam"}, TypeError, r"optimizer must be an object such as Adam\(\)"),
        ({"metrics": "accuracy"}, TypeError, "metrics must be a list"),
        ({"metrics": ["acuracy"]}, ValueError, "metrics must be one of .*nearest: 'accuracy'"),
        ({"metrics": print}, TypeError, "metrics must be a list of names or func"),
        ({"metrics": None}, TypeError, "metrics must be a list of names or functions, got None"),
        ({"metrics": ["accuracy"] * 2}, ValueError, "metrics must have different names"),
        ({"metrics": [_named("loss")]}, ValueError, "metrics must have .* 'loss' would be"),
        (
            {"metrics": [_named("val_accuracy"), "accuracy"]},
            ValueError,
            "metrics must have different names, but 'val_accuracy' would be in the history twice",
        ),
        ({"seed": -1}, ValueError, "seed must be an integer of at least 0, got -1"),
        ({"seed": "a"}, TypeError, "seed must be an integer of at least 0, got 'a'"),
        ({"callbacks": print}, TypeError, "callbacks must be a list of Callback objects or func"),
        ({"callbacks": None}, TypeError, "callbacks must be a list of .*, got None"),
        ({"callbacks": [3]}, TypeError, "callbacks must hold Callback objects or functions"),
        ({"callbacks": [fm.EarlyStopping]}, TypeError, "callbacks must hold Callback objects"),
        ({"X": X[0], "y": 1}, ValueError, r"X must have shape \(n_samples, 4\), got \(4,\)"),
    ],
)
def test_wrong_options_of_fit_are_refused(net, options, error, message):
    before = net.get_parameters()
    with pytest.raises(error, match=message):
        net.fit(**{"X": X, "y": LABELS, "verbose": 0} | options)
    np.testing.assert_array_equal(net.get_parameters(), before)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: fm.Dense(0, 3), ValueError, "n_in must be an integer of at least 1, got 0"),
        (lambda: fm.Dense(3, 2.0), TypeError, "n_out must be an integer of at least 1, got 2.0"),
        (lambda: fm.Dense(3, 2, "rleu"), ValueError, r"activation must be .*nearest: 'relu'"),
        (lambda: fm.Dense(3, 2, None), TypeError, "activation must be one of .*, got None"),
        (lambda: fm.Dense(3, 2, "relu", alpha=0.1), ValueError, "alpha must be None for 'relu'"),
        (lambda: fm.Dense(3, 2, "leaky_relu", alpha=-1), ValueError, r"alpha .*\[0, inf\), got -1"),
        (lambda: fm.Dense(3, 2, "celu", alpha=0), ValueError, r"alpha .*\(0, inf\), got 0"),
        (lambda: fm.Dense(3, 2, initializer="he"), ValueError, "initializer must be one of"),
        (lambda: fm.MLP([]), ValueError, "layers must hold at least one Dense layer, got none"),
        (lambda: fm.MLP(fm.Dense(2, 3)), TypeError, "layers must be a list of layers, got D"),
        (lambda: fm.MLP([3]), TypeError, "layers must hold layers such as Dense, got 3"),
        (
            lambda: fm.MLP([fm.Dense(2, 3), fm.Dense(4, 1)]),
            ValueError,
            r"layers\[1\] takes 4 features, but layers\[0\] gives 3",
        ),
        (lambda: fm.MLP.from_sizes(10), TypeError, "sizes must be a list of integers, got 10"),
        (
            lambda: fm.MLP.from_sizes([3, 2], output_activation="sofmax"),
            ValueError,
            "output_activation must be one of .*, got 'sofmax' .nearest: 'softmax'",
        ),
        (
            lambda: fm.MLP.from_sizes([4, 3], activation="rleu"),
            ValueError,
            "activation must be one of .*, got 'rleu' .nearest: 'relu'",
        ),
        (lambda: fm.MLP.from_sizes([3]), ValueError, r"sizes must have .*, got \[3\]"),
        (lambda: fm.MLP.from_sizes([3, 2], dtype="float16"), ValueError, "dtype must be 'float32'"),
        (lambda: fm.MLP.from_sizes([3, 2], dtype=None), ValueError, "dtype must be 'float32'"),
        (lambda: fm.MLP.from_sizes([3, 2], seed=0).set_parameters([1.0]), ValueError, r"\(8,\)"),
    ],
)
def test_wrong_networks_are_refused(build, error, message):
    with pytest.raises(error, match=message):
        build()

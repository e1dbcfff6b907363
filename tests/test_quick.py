"""Plain single samples skip the checks, and give what the way through the checks gives."""

from __future__ import annotations

import copy
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fastmlp as fm
from fastmlp import quick

pytestmark = pytest.mark.skipif(
    not fm.kernels.has_compiled_kernels(), reason="only compiled kernels are called quickly"
)

SIZES = (5, 9, 7, 3)
DTYPES = ("float32", "float64")
OPTIMIZERS = {
    "sgd": lambda: fm.SGD(0.1),
    "decay": lambda: fm.SGD(0.1, weight_decay=0.01),
    "heavy_ball": lambda: fm.SGD(0.1, 0.9),
    "adam": lambda: fm.Adam(0.01),
    "nadam": lambda: fm.NAdam(0.01),
    "schedule": lambda: fm.SGD(fm.schedules.InverseTime(0.1, 10)),
    "clipped": lambda: fm.SGD(0.1, clip_norm=0.1),
    "average": lambda: fm.SGD(0.1, average=fm.ParameterAverage()),
}


@pytest.fixture(autouse=True)
def compiled():
    with fm.use_backend("cython"):
        yield


def make_net(dtype="float32", activation="tanh", sizes=SIZES):
    return fm.MLP.from_sizes(sizes, activation, dtype=dtype, seed=0)


def samples(dtype="float32", n=7, n_in=SIZES[0]):
    return np.random.default_rng(1).normal(size=(n, n_in)).astype(dtype)


@pytest.fixture
def count_quick(monkeypatch):
    """Count the quick calls that gave an answer."""
    answered, first = [], quick.Quick.__init__

    def counted(name, method):
        def call(*arguments):
            answer = method(*arguments)
            answered.extend([name] * (answer is not None))
            return answer

        return call

    def init(self, *arguments):
        first(self, *arguments)
        for name in ("forward", "value_and_grad", "train_step"):
            setattr(self, name, counted(name, getattr(self, name)))

    monkeypatch.setattr(quick.Quick, "__init__", init)
    return answered


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_outputs_are_those_of_forward(count_quick, dtype, activation):
    net, X = make_net(dtype, activation), samples(dtype)
    out = np.empty(SIZES[-1], dtype)
    for x in X:
        expected = net(x.tolist())
        np.testing.assert_array_equal(net(x), expected)
        np.testing.assert_array_equal(net(x[None])[0], expected)
        assert net.forward(x, out) is out
        np.testing.assert_array_equal(out, expected)
    assert count_quick == ["forward"] * 3 * len(X)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 8, 9, 16, 17, 100])
def test_a_few_samples(count_quick, dtype, n):
    X, y = samples(dtype, n), np.arange(n) % 3
    nets = make_net(dtype), make_net(dtype)
    optimizers = fm.Adam(), fm.Adam()
    for _ in range(3):
        outputs = nets[0](X)
        np.testing.assert_array_equal(outputs, nets[1](X.tolist()))
        assert outputs.shape == (n, 3)
        value, grad = nets[0].value_and_grad(X, y)
        expected = nets[1].value_and_grad(X, y.tolist(), fm.CrossEntropy())
        assert value == expected[0]
        np.testing.assert_array_equal(grad.arena, expected[1].arena)
        step = nets[0].train_step(X, y, optimizer=optimizers[0])
        assert step == value == nets[1].train_step(X.tolist(), y, optimizer=optimizers[1])
        np.testing.assert_array_equal(*(net.get_parameters() for net in nets))
    assert count_quick.count("train_step") == count_quick.count("value_and_grad") == 2


@pytest.mark.parametrize(
    "wrong",
    [np.array([0, 3]), np.array([0, -1]), np.array([0]), np.zeros((2, 1), int), 1, np.ones(2)],
    ids=["large", "negative", "short", "matrix", "one", "float"],
)
def test_labels_of_a_few_samples_are_checked(wrong):
    net, X = make_net(), samples(n=2)
    net.train_step(X, np.array([0, 2]), optimizer=(optimizer := fm.SGD(0.1)))
    before = net.get_parameters()
    with pytest.raises((TypeError, ValueError)):
        net.train_step(X, wrong, optimizer=optimizer)
    np.testing.assert_array_equal(net.get_parameters(), before)


@pytest.mark.parametrize(
    "strange",
    [
        lambda x: x.tolist(),
        lambda x: x.astype(np.float64),
        lambda x: x.astype(">f4"),
        lambda x: np.repeat(x, 2)[::2],
        lambda x: x[::-1].copy()[::-1],
        lambda x: np.ma.array(x),
        lambda x: np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32),
        lambda x: np.repeat(x[None], quick.MOST_ROWS + 1, axis=0),
        lambda x: np.asfortranarray(np.repeat(x[None], 3, axis=0)),
    ],
    ids=["list", "float64", "swapped", "strided", "reversed", "masked", "unaligned", "many", "F"],
)
def test_what_is_not_plain_takes_the_other_way(count_quick, strange):
    net, x = make_net(), samples()[0]
    expected = net(x)
    y = net(strange(x))
    np.testing.assert_allclose(y, np.broadcast_to(expected, y.shape), rtol=1e-6, atol=1e-7)
    assert not count_quick


@pytest.mark.parametrize("wrong", [np.ones(4, "f4"), np.ones((2, 4), "f4"), "text", None])
def test_what_is_wrong_is_refused_as_ever(wrong):
    net = make_net()
    with pytest.raises((TypeError, ValueError)) as before:
        net(wrong)
    net(samples()[0])
    with pytest.raises(type(before.value)) as after:
        net(wrong)
    assert str(after.value) == str(before.value)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("loss", "target"),
    [
        ("cross_entropy", lambda dtype: 2),
        ("hinge", lambda dtype: 1),
        ("quadratic", lambda dtype: np.arange(3, dtype=dtype)),
        ("huber", lambda dtype: np.arange(3, dtype=dtype)),
        ("poisson", lambda dtype: np.arange(3, dtype=dtype)),
        ("cross_entropy", lambda dtype: np.array([0.5, 0.25, 0.25], dtype)),
    ],
)
def test_gradient_is_that_of_a_first_call(count_quick, dtype, loss, target):
    x, y = samples(dtype)[0], target(dtype)
    first, second = make_net(dtype), make_net(dtype)
    expected = first.value_and_grad(x, y, loss)
    second.value_and_grad(x, y, loss)
    value, grad = second.value_and_grad(x, y, loss)
    assert value == expected[0]
    np.testing.assert_array_equal(grad.arena, expected[1].arena)
    assert grad.arena.ctypes.data % 64 == 0
    unchecked = isinstance(y, int) or loss in ("quadratic", "huber")
    assert ("value_and_grad" in count_quick) == unchecked


def test_gradients_need_no_zeros_to_start_from(count_quick, every_layer):
    unbiased = fm.MLP([fm.Dense(5, 4, "tanh", bias=False), fm.Dense(4, 3, bias=False)], seed=0)
    for net in (every_layer, unbiased):
        x = np.random.default_rng(0).normal(size=net.n_in).astype(net.dtype)
        _, expected = net.value_and_grad(x, 1)
        junk = [np.full(net.parameters.layout.n_elements + 16, np.nan, net.dtype) for _ in range(9)]
        del junk  # whose memory comes next
        _, grad = net.value_and_grad(x, 1)
        np.testing.assert_array_equal(grad.arena, expected.arena)
    assert count_quick == ["value_and_grad"] * 2


@pytest.mark.parametrize("strange", ["short", "read-only", "float64", "of X", "of the network"])
def test_outputs_that_do_not_fit_are_refused(strange):
    net, x = make_net(sizes=(3, 3)), samples(n_in=3)[0]
    net(x)
    out = {
        "short": np.empty(2, np.float32),
        "read-only": np.empty(3, np.float32),
        "float64": np.empty(3),
        "of X": x,
        "of the network": net.biases[0],
    }[strange]
    out.flags.writeable = strange != "read-only"
    before = x.copy()
    with pytest.raises((TypeError, ValueError), match="out"):
        net.forward(x, out)
    np.testing.assert_array_equal(x, before)


def test_a_subclass_may_have_its_own_forward():
    class Halved(fm.MLP):
        def forward(self, X, out=None):
            return super().forward(X, out) / 2

    class Doubling:
        def forward(self, X, out=None):
            return 2 * super().forward(X, out)

    class Mixed(Doubling, fm.MLP):
        pass

    class Quartered(Halved):
        def __call__(self, X):
            return self.forward(X) / 2

    class Inherited(Quartered):
        pass

    x = samples()[0]
    outputs = make_net(activation="relu")(x)
    parts = {Halved: 2, Mixed: 0.5, Quartered: 4, Inherited: 4}
    for kind, part in parts.items():
        net = kind.from_sizes(SIZES, seed=0)
        for _ in range(3):
            np.testing.assert_array_equal(net(x), outputs / part)


def test_the_label_that_an_array_has_is_plain(count_quick):
    net, x = make_net(), samples()[0]
    expected = net.value_and_grad(x, 2)[0]
    del count_quick[:]
    assert net.value_and_grad(x, np.array([2])[0])[0] == expected
    assert count_quick == ["value_and_grad"]


def test_labels_out_of_range_are_refused():
    net, x = make_net(), samples()[0]
    net.value_and_grad(x, 2)
    for label in (3, -1, 1.0, np.int64(3)):
        with pytest.raises((TypeError, ValueError)):
            net.value_and_grad(x, label)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_those_of_fit(count_quick, dtype, name):
    n = quick.STEPS_AHEAD * (1 + 4 + 16) + quick.MOST_STEPS_AHEAD + 3
    X, y = samples(dtype, n), np.random.default_rng(2).integers(3, size=n)
    stepped, fitted = make_net(dtype), make_net(dtype)
    optimizer, other = OPTIMIZERS[name](), OPTIMIZERS[name]()
    losses = [stepped.train_step(x, int(t), optimizer=optimizer) for x, t in zip(X, y, strict=True)]
    history = fitted.fit(X, y, optimizer=other, epochs=1, batch_size=1, shuffle=False, verbose=0)
    np.testing.assert_array_equal(stepped.get_parameters(), fitted.get_parameters())
    assert optimizer.step_count == other.step_count == n
    np.testing.assert_allclose(np.mean(losses), history.loss[0], rtol=1e-6)
    is_quick = name not in ("schedule", "clipped", "average")
    assert ("train_step" in count_quick) == is_quick


def test_a_changed_optimizer_is_noticed():
    X = samples(n=12)
    nets = make_net(), make_net()
    optimizers = fm.Adam(0.01), fm.Adam(0.01)
    for k, x in enumerate(X):
        if k == 5:
            for optimizer in optimizers:
                optimizer.learning_rate = 0.1
        if k == 8:
            for optimizer in optimizers:
                optimizer.reset()
        nets[0].train_step(x, 1, optimizer=optimizers[0])
        nets[1].train_step(x.tolist(), 1, optimizer=optimizers[1])  # never quick
        np.testing.assert_array_equal(*(net.get_parameters() for net in nets))
    state = optimizers[0].state_dict()
    optimizers[0].load_state_dict(state, nets[0])
    for net, optimizer in zip(nets, optimizers, strict=True):
        net.train_step(X[0], 1, optimizer=optimizer)
    np.testing.assert_array_equal(*(net.get_parameters() for net in nets))


def test_a_foreign_optimizer_is_refused():
    optimizer, x = fm.SGD(0.1), samples()[0]
    first, second = make_net(), make_net()
    for _ in range(3):
        first.train_step(x, 1, optimizer=optimizer)
    second.train_step(x, 1, optimizer=fm.SGD(0.1))
    with pytest.raises(ValueError, match="another network"):
        second.train_step(x, 1, optimizer=optimizer)


@pytest.mark.parametrize("name", ["adam", "nadam"])
def test_what_other_calls_prepare_is_noticed(name):
    X, y = samples(n=4), np.array([0, 1, 2, 0])
    nets, optimizers = (make_net(), make_net()), (OPTIMIZERS[name](), OPTIMIZERS[name]())

    def steps(quickly):
        net, optimizer = nets[not quickly], optimizers[not quickly]
        for x in X:
            net.train_step(x if quickly else x.tolist(), 1, optimizer=optimizer)

    for quickly in (True, False):
        steps(quickly)
        arguments = {"optimizer": optimizers[not quickly], "batch_size": 2, "verbose": 0, "seed": 0}
        nets[not quickly].fit(X, y, epochs=1, **arguments)
        steps(quickly)
        with pytest.raises(ValueError, match="another network"):
            make_net().train_step(X[0], 1, optimizer=optimizers[not quickly])
        steps(quickly)
    np.testing.assert_array_equal(*(net.get_parameters() for net in nets))
    states = [optimizer.state_dict() for optimizer in optimizers]
    for key in states[0]:
        np.testing.assert_array_equal(states[0][key], states[1][key])


def test_threads_that_share_an_optimizer_leave_it_usable():
    net, X, optimizer = make_net(), samples(n=400), fm.Adam()
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda x: net.train_step(x, 1, optimizer=optimizer), X))
    finally:
        sys.setswitchinterval(before)
    assert np.isfinite(net.train_step(X.tolist()[0], 1, optimizer=optimizer))
    assert optimizer.state_dict()["step_count"] > 1


def test_copies_are_independent():
    net, x = make_net(), samples()[0]
    before = net(x)
    other = copy.deepcopy(net)
    net.set_parameters(np.zeros(net.n_parameters, np.float32))
    np.testing.assert_array_equal(other(x), before)
    assert not net(x).any()


def test_the_backend_in_context_is_used(count_quick):
    net, x = make_net(), samples()[0]
    net(x)
    with fm.use_backend("numpy"):
        net(x)
    assert not count_quick
    net(x)
    assert count_quick == ["forward"]


def test_threads_share_a_network():
    net, X = make_net(sizes=(5, 200, 200, 3)), samples(n=400)
    expected = np.array([net(x) for x in X])
    with ThreadPoolExecutor(8) as pool:
        np.testing.assert_array_equal(list(pool.map(net, X)), expected)
        pairs = list(pool.map(lambda x: net.value_and_grad(x, 1), X))
    for x, (value, grad) in zip(X[:20], pairs, strict=False):
        again = net.value_and_grad(x, 1)
        assert value == again[0]
        np.testing.assert_array_equal(grad.arena, again[1].arena)


@pytest.mark.parametrize("strange", [np.nan, np.inf])
def test_rows_that_are_left_out_do_not_hide_what_is_not_finite(strange):
    net, x = make_net(activation="relu"), samples()[0]
    x[::2] = 0
    net.weights[-1][0, 0] = strange
    net.biases[0][...] = 1  # all units are on
    for _ in range(2):
        net.train_step(x, 1, optimizer=fm.SGD(0.1))
    assert np.isnan(net.weights[0]).any()


def test_zeros_of_the_input_leave_their_weights():
    net, x = make_net(), samples()[0]
    x[1] = 0
    before = net.weights[0].copy()
    optimizer = fm.SGD(0.1)
    for _ in range(3):
        net.train_step(x, 1, optimizer=optimizer)
    np.testing.assert_array_equal(net.weights[0][:, 1], before[:, 1])
    assert (net.weights[0][:, 0] != before[:, 0]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(1030, 530, 17), (530, 1030), (530, 1040), (1030, 1040, 17)])
def test_large_weights_are_swept_to_the_same_bits(dtype, sizes):
    """Whole rows at a time, or tiles: each output is the same chain of sums."""
    net, X = make_net(dtype, "relu", sizes), samples(dtype, 12, sizes[0])
    net.biases[0][...] = X[0, 0]
    expected = net(X)  # by tiles
    for n in (1, 2, 3):
        np.testing.assert_array_equal(net(X[:n]), expected[:n])
    z = X.astype(np.float64)
    for weight, bias in zip(net.weights, net.biases, strict=True):
        z = np.maximum(z, 0) if weight is not net.weights[0] else z
        z = z @ weight.T.astype(np.float64) + bias
    np.testing.assert_allclose(expected, z, rtol=0, atol=1e-4 * np.abs(z).max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(530, 1040, 17), (400, 304), (300, 290, 17), (2100, 48)])
def test_inputs_of_0_are_left_out_to_the_same_bits(dtype, sizes):
    """Near and far weights, with units that are off, and with few and many inputs of 0."""
    net, rng = make_net(dtype, "relu", sizes), np.random.default_rng(0)
    X = samples(dtype, 12, sizes[0])
    for share in (0.1, 0.25, 0.6, 1):
        X[:, rng.random(sizes[0]) < share] = 0
        X[1] *= -1  # −0 is 0
        expected = net(X)  # by tiles
        for n in (1, 2, 3):
            np.testing.assert_array_equal(net(X[:n]), expected[:n])
        np.testing.assert_array_equal(net(X[1]), expected[1])
    np.testing.assert_array_equal(net(X[0]), net(np.zeros_like(X[0])))


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite_counts_unless_its_input_is_0(dtype):
    net, x = make_net(dtype, "relu", (530, 544)), samples(dtype, 1, 530)[0]
    x[:300] = 0
    expected = net(x)
    assert np.isfinite(expected).all()
    for value in (np.nan, np.inf, -np.inf):
        x[299], net.weights[0][:, 299] = 0, value
        np.testing.assert_array_equal(net(x), expected)
        x[299] = np.finfo(dtype).smallest_subnormal
        assert not np.isfinite(net(x)).any()
        x[299], net.weights[0][:, 299] = value, 1
        assert not np.isfinite(net(x)).any()


def test_samples_among_the_parameters_are_those_before_the_step():
    """Rows of a weight may be samples and targets."""
    own, apart = (fm.MLP.from_sizes([5, 5], seed=0) for _ in range(2))
    optimizers = fm.SGD(0.5), fm.SGD(0.5)
    for _ in range(3):  # the first step takes the long way
        rows = apart.weights[0].T.copy()
        apart.train_step(rows[1], rows[2], "mse", optimizer=optimizers[0])
        rows = own.weights[0].T
        own.train_step(rows[1], rows[2], "mse", optimizer=optimizers[1])
        np.testing.assert_array_equal(own.get_parameters(), apart.get_parameters())
    options = {"epochs": 1, "batch_size": 2, "shuffle": False, "verbose": 0}
    rows = apart.weights[0].T.copy()
    apart.fit(rows, rows, "mse", optimizers[0], **options)
    own.fit(own.weights[0].T, own.weights[0].T, "mse", optimizers[1], **options)
    np.testing.assert_array_equal(own.get_parameters(), apart.get_parameters())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [37, 100, 150])
def test_far_weights_give_the_same_bits_in_parts(dtype, n):
    """Long sums that stop and go on, for many samples, or at once, for a few."""
    sizes = (600, 5000, 64, 2)
    net, X = make_net(dtype, "tanh", sizes), samples(dtype, n, sizes[0])
    outputs = net(X)
    np.testing.assert_array_equal(
        outputs, np.concatenate([net(X[i : i + 9]) for i in range(0, n, 9)])
    )
    double = net.astype("float64")(X.astype(np.float64))
    np.testing.assert_allclose(outputs, double, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["sgd", "decay", "adam"])
@pytest.mark.parametrize("activation", ["relu", "relu6", "tanh"])
def test_steps_where_units_are_off(dtype, name, activation):
    X = samples(dtype, 6)
    X[::2, 1] = 0
    nets = [make_net(dtype, activation, (5, 150, 70, 3)) for _ in range(2)]
    optimizers = OPTIMIZERS[name](), OPTIMIZERS[name]()
    for x in X:
        value = nets[0].train_step(x, 1, optimizer=optimizers[0])
        with fm.use_backend("numpy"):
            expected = nets[1].train_step(x, 1, optimizer=optimizers[1])
        assert value == pytest.approx(expected, rel=1e-3 if name == "adam" else 1e-4)
    difference = nets[0].get_parameters() - nets[1].get_parameters()
    assert np.abs(difference).max() < (1e-3 if dtype == "float32" else 1e-7)


def test_a_network_does_not_keep_an_optimizer():
    net, x = make_net(), samples()[0]
    optimizer = fm.Adam()
    for _ in range(3):
        net.train_step(x, 1, optimizer=optimizer)
    state = weakref.ref(optimizer.prepare(net.parameters, 1).state.base)
    gone = weakref.ref(optimizer)
    del optimizer
    assert gone() is None
    assert state() is None
    assert np.isfinite(net.train_step(x, 1, optimizer=fm.Adam()))

"""Training: the same steps whichever way they are run, what is recorded, how it ends."""

from __future__ import annotations

import copy
import io
import signal
import sys

import numpy as np
import pytest

import fastmlp as fm
from fastmlp import backends, pacing, training
from fastmlp.kernels import reference

X, Y = fm.datasets.make_spirals(90, seed=0)


def make_net(dtype="float64"):
    return fm.MLP.from_sizes([2, 8, 3], activation="tanh", dtype=dtype, seed=0)


def train(net, **options):
    defaults = {"optimizer": fm.Adam(0.01), "epochs": 3, "batch_size": 32, "seed": 0, "verbose": 0}
    return net.fit(X, Y, **(defaults | options))


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("batch_size", [1, 30, 32, 90, None])
def test_fit_is_a_sequence_of_train_steps(batch_size, shuffle, drop_last):
    net, by_hand = make_net(), make_net()
    history = train(net, batch_size=batch_size, shuffle=shuffle, drop_last=drop_last)
    optimizer, generator = fm.Adam(0.01), np.random.default_rng(0)
    size = batch_size or 90
    for epoch in range(3):
        order = generator.permutation(90) if shuffle else np.arange(90)
        batches = [order[start : start + size] for start in range(0, 90, size)]
        if drop_last:
            batches = [batch for batch in batches if len(batch) == size]
        losses = [by_hand.train_step(X[b], Y[b], optimizer=optimizer) for b in batches]
        mean = np.average(losses, weights=[len(batch) for batch in batches])
        assert history.loss[epoch] == pytest.approx(mean, rel=1e-12)
    assert (history.n_epochs, history.n_steps) == (3, 3 * len(batches))
    np.testing.assert_allclose(net.get_parameters(), by_hand.get_parameters(), rtol=1e-9)


def test_backends_train_alike(backend):
    net, reference = make_net(), make_net()
    with fm.use_backend("numpy"):
        expected = train(reference)
    with fm.use_backend(backend):
        history = train(net)
    assert history.loss == pytest.approx(expected.loss, rel=1e-9)
    np.testing.assert_allclose(net.get_parameters(), reference.get_parameters(), rtol=1e-8)


def test_parameters_do_not_depend_on_threads_or_chunks(monkeypatch):
    monkeypatch.setattr(backends, "_threads", None)  # put back after the test
    found = []
    for n_threads, seconds in ((1, 0.05), (2, 1e-9), (3, 1e9), (7, 0.001)):
        monkeypatch.setattr(pacing, "SECONDS_PER_CALL", seconds)
        fm.set_num_threads(n_threads, work_per_thread=0)
        net = make_net()
        train(net)
        found.append(net.get_parameters())
    for parameters in found[1:]:
        np.testing.assert_array_equal(parameters, found[0])


def test_a_batch_larger_than_the_data_is_all_of_it():
    net, other = make_net(), make_net()
    assert train(net, batch_size=10**30, drop_last=True).n_steps == 3
    train(other, batch_size=90)
    np.testing.assert_array_equal(net.get_parameters(), other.get_parameters())


def test_fit_continues_where_it_ended():
    net, other = make_net(), make_net()
    train(other, shuffle=False, epochs=6)
    optimizer = fm.Adam(0.01)
    for _ in range(2):
        train(net, shuffle=False, optimizer=optimizer)
    np.testing.assert_array_equal(net.get_parameters(), other.get_parameters())
    assert optimizer.step_count == 18


def test_it_learns_with_the_default_optimizer(backend):
    net = fm.MLP.from_sizes([2, 32, 32, 3], dtype="float64", seed=0)
    with fm.use_backend(backend):
        history = net.fit(X, Y, epochs=150, seed=0, verbose=0, metrics=["accuracy"])
    assert history["accuracy"][-1] > 0.95


def test_regression_learns():
    x, y = fm.datasets.make_noisy_sine(seed=0)
    net = fm.MLP.from_sizes([1, 32, 32, 1], seed=0)
    history = net.fit(x, y, "mse", fm.Adam(0.01), epochs=200, seed=0, verbose=0)
    assert history.loss[-1] < 0.02  # the noise is 0.01


def test_history_records_every_epoch():
    def share_of_class_0(y, output):
        assert output.shape == (len(y), 3)
        return np.mean(y == 0)

    net = make_net()
    history = train(
        net, validation_data=(X[:7], Y[:7]), metrics=["accuracy", share_of_class_0], epochs=12
    )
    assert (history.n_epochs, history.n_steps) == (12, 36)
    assert list(history.metrics) == [
        "accuracy",
        "share_of_class_0",
        "val_accuracy",
        "val_share_of_class_0",
    ]
    assert all(len(history[name]) == 12 for name in history.names)
    assert history.val_loss[-1] == net.loss(X[:7], Y[:7])
    assert history["accuracy"][-1] == np.mean(net(X).argmax(axis=1) == Y)
    assert history["val_accuracy"][-1] == np.mean(net(X[:7]).argmax(axis=1) == Y[:7])
    assert history["share_of_class_0"] == [1 / 3] * 12
    assert min(history.seconds) > 0
    lines = repr(history).splitlines()
    assert lines[0] == "History: 12 epochs, 36 steps"
    assert len(lines) == 2 + 4 + 1 + 4
    with pytest.raises(KeyError, match="no 'acc', only loss, accuracy"):
        history["acc"]


def test_without_validation_data_there_is_no_validation_loss():
    history = train(make_net())
    assert history.names == ("loss", "seconds")
    assert history.val_loss == []
    assert history.metrics == {}


def test_accuracy_of_one_logit_and_of_probability_rows():
    accuracy = fm.metrics.accuracy
    logits = np.array([[-1.0], [2], [0.5], [-3]])
    assert accuracy(np.array([[0.0], [1], [0], [0]]), logits) == 0.75
    assert accuracy(np.eye(3)[[0, 1, 2]], np.eye(3)[[0, 1, 1]]) == 2 / 3


def test_divergence_ends_training_with_a_warning():
    net = make_net("float32")
    target = np.full((90, 3), 1e30, np.float32)
    with pytest.warns(
        RuntimeWarning, match=r"training diverged: .* epoch 0 is (inf|nan)"
    ) as record:
        history = net.fit(X, target, "mse", fm.SGD(0.1), epochs=5, verbose=0)
    assert history.n_epochs == 1
    assert any(w.filename == __file__ for w in record)


def test_ctrl_c_leaves_a_usable_network():
    net, ends = make_net(), []

    class Interrupt(fm.Callback):
        def on_epoch_end(self, net, epoch, history):
            raise KeyboardInterrupt

        def on_train_end(self, net, history):
            ends.append(history.n_epochs)

    with pytest.raises(KeyboardInterrupt):
        train(net, callbacks=[Interrupt()])
    assert ends == [1]
    assert np.isfinite(net(X)).all()
    train(net)


@pytest.fixture
def interrupt_after():
    """Press Ctrl-C after some seconds, while compiled kernels run."""
    if not fm.kernels.has_compiled_kernels():
        pytest.skip("others compile first, or may be stopped within a step")
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    with fm.use_backend("cython"):
        yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def make_counter(n_in=1):
    """Return a network whose weights count steps: the slope of |w − 1e15| is −1."""
    layer = fm.Dense(n_in, 1, bias=False, initializer="zeros")
    return fm.MLP([layer], dtype="float64"), fm.SGD(1.0)


def test_ctrl_c_while_kernels_run_counts_their_steps(interrupt_after):
    net, optimizer = make_counter()
    x, y = np.ones((10**6, 1)), np.full(10**6, 1e15)
    interrupt_after(0.3)
    with pytest.raises(KeyboardInterrupt):
        net.fit(x, y, "mae", optimizer, epochs=10**6, batch_size=1, verbose=0)
    assert net.weights[0][0, 0] == optimizer.step_count > 0


def test_ctrl_c_while_single_steps_run_counts_them(interrupt_after):
    net, optimizer = make_counter(1000)
    x, y = np.ones((16, 1000)), np.full((16, 1), 1e15)

    def step_until_interrupted():
        interrupt_after(0.002)
        while True:
            net.train_step(x, y, "mae", optimizer=optimizer)

    for _ in range(50):
        with pytest.raises(KeyboardInterrupt):
            step_until_interrupted()
        assert (net.weights[0] == optimizer.step_count).all()
    assert optimizer.step_count > 50


def test_ctrl_c_in_the_reference_counts_the_steps_before(monkeypatch):
    net, optimizer = make_counter()
    gradient, calls = reference.network_gradient, []

    def interrupted(*arguments):
        calls.append(len(calls))
        if calls[-1] == 3:
            raise KeyboardInterrupt
        return gradient(*arguments)

    monkeypatch.setattr(reference, "network_gradient", interrupted)
    with fm.use_backend("numpy"), pytest.raises(KeyboardInterrupt):
        net.fit(np.ones((9, 1)), np.full(9, 1e15), "mae", optimizer, batch_size=1, verbose=0)
    assert net.weights[0][0, 0] == optimizer.step_count == 3


def test_callbacks_are_called_in_order_and_may_stop():
    calls = []

    class Recorder(fm.Callback):
        def on_train_begin(self, net, history):
            calls.append("begin")

        def on_epoch_end(self, net, epoch, history):
            calls.append(epoch)

        def on_train_end(self, net, history):
            calls.append("end")

    def stop_after_second(net, epoch, history):
        return history.n_epochs == 2

    history = train(make_net(), callbacks=[stop_after_second, Recorder()], epochs=9)
    assert calls == ["begin", 0, 1, "end"]
    assert history.n_epochs == 2


def test_a_callback_that_changes_the_labels_changes_nothing():
    net, other, labels = make_net(), make_net(), Y.astype(np.int64)
    options = {"epochs": 3, "seed": 0, "verbose": 0, "validation_data": (X, labels)}

    def overwrite(net, epoch, history):
        labels[...] = -(10**9)

    expected = train(other, validation_data=(X, Y), optimizer=None, batch_size=32)
    history = net.fit(X, labels, callbacks=[overwrite], **options)
    assert (history.loss, history.val_loss) == (expected.loss, expected.val_loss)
    np.testing.assert_array_equal(net.get_parameters(), other.get_parameters())


def test_a_metric_cannot_change_the_labels():
    def overwrite(y, output):
        y[...] = -(10**9)

    with pytest.raises(ValueError, match="read-only"):
        train(make_net(), metrics=[overwrite])


def test_an_optimizer_is_free_until_training_has_begun():
    optimizer = fm.Adam(0.01)
    with pytest.raises(ValueError, match="monitor must be one of"):
        train(make_net(), optimizer=optimizer, callbacks=[fm.EarlyStopping()])
    assert train(make_net(), optimizer=optimizer).n_steps == 9


def test_an_optimizer_that_is_taken_ends_what_began():
    optimizer, calls = fm.Adam(0.01), []

    class Recorder(fm.Callback):
        def on_train_begin(self, net, history):
            calls.append("begin")

        def on_train_end(self, net, history):
            calls.append("end")

    train(make_net(), optimizer=optimizer)
    generator = np.random.default_rng(0)
    with pytest.raises(ValueError, match="has the state of another network"):
        train(make_net(), optimizer=optimizer, callbacks=[Recorder()], seed=generator)
    assert calls == ["begin", "end"]
    assert generator.random() == np.random.default_rng(0).random()


def test_a_rule_that_changes_within_a_step_is_used_as_it_was():
    class Fickle(fm.SGD):
        @property
        def row(self):
            self.momentum = 0.9 - self.momentum
            return super().row

    net, expected = make_net(), make_net()
    net.train_step(X, Y, optimizer=Fickle(0.1))
    expected.train_step(X, Y, optimizer=fm.SGD(0.1))
    np.testing.assert_array_equal(net.get_parameters(), expected.get_parameters())


# --- Early stopping -------------------------------------------------------------------------


def run_early_stopping(values, **options):
    """Feed an EarlyStopping with values; return it, the epochs run and the restored number."""
    stopping = fm.EarlyStopping(**options)
    net = fm.MLP.from_sizes([1, 1], dtype="float64", seed=0)
    history = fm.History([stopping.monitor])
    stopping.on_train_begin(net, history)
    for epoch, value in enumerate(values):
        net.biases[0][...] = epoch
        history.append({stopping.monitor: value}, n_steps=1)
        if stopping.on_epoch_end(net, epoch, history):
            break
    stopping.on_train_end(net, history)
    return stopping, history.n_epochs, net.biases[0][0]


@pytest.mark.parametrize(
    ("values", "options", "epochs", "restored"),
    [
        ([3, 2, 1, 2, 2, 2], {"patience": 2}, 5, 2),
        ([3, 2, 1, 2, 0, 2, 3, 4], {"patience": 2}, 7, 4),
        ([3, 2.9, 2.8, 2.7], {"patience": 2, "min_delta": 0.5}, 3, 0),
        ([3, 2, 3, 3], {"patience": 1, "restore_best": False}, 3, 2),
        ([0.1, 0.5, 0.4, 0.3], {"monitor": "val_accuracy", "patience": 2}, 4, 1),
        ([1, 5, 4], {"monitor": "gain", "mode": "max", "patience": 1}, 3, 1),
        ([np.nan, 5, np.nan, 6], {"patience": 2}, 4, 1),
        ([np.nan, np.nan, np.nan], {"patience": 2}, 3, 0),
    ],
)
def test_early_stopping(values, options, epochs, restored):
    stopping, n_epochs, bias = run_early_stopping(values, **options)
    assert (n_epochs, bias) == (epochs, restored)
    if stopping.restore_best:
        assert stopping.best_epoch == restored


def test_early_stopping_restores_the_best_epoch_of_a_fit():
    net = make_net()
    stopping = fm.EarlyStopping(patience=3)
    history = train(
        net,
        validation_data=(X[:9], Y[:9] * 0),
        callbacks=[stopping],
        epochs=50,
        optimizer=fm.SGD(1),
    )
    assert history.n_epochs == stopping.best_epoch + 4 < 50
    assert net.loss(X[:9], Y[:9] * 0) == min(history.val_loss)


def test_early_stopping_asks_for_what_it_needs():
    net = make_net()
    with pytest.raises(ValueError, match="monitor must be one of loss, seconds, got 'val_loss'"):
        train(net, callbacks=[fm.EarlyStopping()])
    with pytest.raises(ValueError, match="mode must be 'min' or 'max' for monitor='gain'"):
        fm.EarlyStopping("gain")
    with pytest.raises(ValueError, match="patience must be an integer of at least 1, got 0"):
        fm.EarlyStopping(patience=0)


# --- Reduction of the learning rate ----------------------------------------------------------


def run_plateau(values, **options):
    """Feed a ReduceOnPlateau with values; return the rate after each, and the callback."""
    optimizer = fm.SGD(1.0)
    callback = fm.ReduceOnPlateau(optimizer, "value", **({"mode": "min"} | options))
    net, history, rates = make_net(), fm.History(["value"]), []
    callback.on_train_begin(net, history)
    for epoch, value in enumerate(values):
        net.train_step(X, Y, optimizer=optimizer)
        history.append({"value": value}, n_steps=1)
        callback.on_epoch_end(net, epoch, history)
        rates.append(optimizer.learning_rate)
    return rates, callback


@pytest.mark.parametrize(
    ("values", "options", "reductions"),
    [
        ([3, 2, 2, 2, 2, 2], {"patience": 2}, [3, 5]),
        ([3, 2, 2, 1, 1, 1], {"patience": 2}, [5]),
        ([3, 2.9, 2.8, 2.7], {"patience": 3, "min_delta": 0.5}, [3]),
        ([2] * 9, {"patience": 1, "cooldown": 2}, [1, 4, 7]),
        ([2, 2, 2, 1, 1, 1, 1], {"patience": 1, "cooldown": 1}, [1, 4, 6]),
        ([1, 2, 3, 3, 3], {"patience": 2, "mode": "max"}, [4]),
        ([np.nan, np.nan, 5, np.nan], {"patience": 1}, [1, 3]),
        ([2] * 6, {"patience": 1, "factor": 0.5, "min_learning_rate": 0.3}, [1, 2]),
        ([2] * 4, {"patience": 1, "factor": 1e-200}, [1]),  # the next would round to 0
    ],
)
def test_a_plateau_lowers_the_learning_rate(values, options, reductions):
    rates, callback = run_plateau(values, **options)
    assert callback.reductions == reductions
    for epoch, rate in enumerate(rates):
        n_reductions = sum(reduction <= epoch for reduction in reductions)
        expected = options.get("factor", 0.1) ** n_reductions
        assert rate == pytest.approx(max(expected, options.get("min_learning_rate", 0)))


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(("patience", "cooldown"), [(1, 0), (2, 3), (3, 1), (4, 0)])
def test_pytorch_lowers_the_rate_after_the_same_epochs(patience, cooldown, mode):
    torch = pytest.importorskip("torch", reason="PyTorch's schedules are compared where it is")
    steps = np.random.default_rng(7).normal(size=50)
    values = (np.cumsum(steps) if mode == "max" else -np.cumsum(steps)) / 10
    options = {"factor": 0.6, "cooldown": cooldown, "mode": mode}
    theirs = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        theirs,
        **options,
        patience=patience - 1,
        threshold=0.05,
        threshold_mode="abs",
        min_lr=0.01,
        eps=0,
    )
    expected = []
    for value in values:
        scheduler.step(value)
        expected.append(theirs.param_groups[0]["lr"])
    ours = {"patience": patience, "min_delta": 0.05, "min_learning_rate": 0.01}
    rates, _ = run_plateau(values, **options, **ours)
    np.testing.assert_allclose(rates, expected, rtol=1e-12)
    assert len(set(rates)) > 3


def test_a_plateau_of_a_fit_starts_afresh_each_time():
    optimizer = fm.SGD(1e-12)
    plateau = fm.ReduceOnPlateau(optimizer, "loss", patience=2, min_delta=1e-3, factor=0.5)
    net = make_net()
    for repeat in (1, 2):
        train(net, optimizer=optimizer, callbacks=[plateau], epochs=6)
        assert plateau.reductions == [2, 4]
        assert optimizer.learning_rate == pytest.approx(1e-12 * 0.25**repeat)


def test_a_plateau_asks_for_what_it_needs():
    net, optimizer = make_net(), fm.SGD(0.1)
    plateau = fm.ReduceOnPlateau(optimizer)
    with pytest.raises(ValueError, match=r"ReduceOnPlateau: monitor must be one of loss, sec"):
        train(net, optimizer=optimizer, callbacks=[plateau])
    plateau = fm.ReduceOnPlateau(fm.SGD(0.1), "loss")
    with pytest.raises(ValueError, match=r"must be the one that trains .* SGD\(.*\) has made no"):
        train(net, optimizer=optimizer, callbacks=[plateau])
    vars(optimizer)["learning_rate"] = fm.schedules.Cosine(0.1, 100)
    with pytest.raises(ValueError, match=r"rate must be a number to be lowered, got Cosine\("):
        train(net, optimizer=optimizer, callbacks=[fm.ReduceOnPlateau(optimizer, "loss")])
    with pytest.raises(TypeError, match="optimizer must be an object such as"):
        fm.ReduceOnPlateau(0.1)
    for name, value in {"factor": 1, "patience": 0, "cooldown": -1, "min_delta": -1}.items():
        with pytest.raises(ValueError, match=f"{name} must be"):
            fm.ReduceOnPlateau(optimizer, **{name: value})
    with pytest.raises(ValueError, match="min_learning_rate must be"):
        fm.ReduceOnPlateau(optimizer, min_learning_rate=-1)


# --- Progress -------------------------------------------------------------------------------


def test_progress_is_shown_on_standard_error(capsys, monkeypatch):
    shown = {}
    for verbose in (0, 1, 2):
        train(make_net(), verbose=verbose, validation_data=(X, Y))
        captured = capsys.readouterr()
        assert captured.out == ""
        shown[verbose] = captured.err
    assert shown[0] == ""
    assert "3/3" in shown[1]
    assert "val_loss=" in shown[1]
    lines = shown[2].splitlines()
    assert len(lines) == 3
    assert lines[2].startswith("epoch 2: loss=")


def test_the_bar_is_closed_when_training_is_interrupted(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    bar = fm.callbacks.ProgressBar(3)
    bar.on_train_begin(make_net(), fm.History(["loss"]))
    bar.on_train_end(make_net(), fm.History(["loss"]))
    assert bar._bar.disable


# --- Pace -----------------------------------------------------------------------------------


def test_pieces_cover_the_range_and_grow_to_the_time_of_a_call(monkeypatch):
    now = 0.0
    monkeypatch.setattr(pacing, "perf_counter", lambda: now)
    pace, pieces = pacing.Pace(), []
    for piece in pace.slices(1000):
        pieces.append(piece.stop - piece.start)
        now += pieces[-1] / 1024
    assert sum(pieces) == 1000
    assert pieces[:2] == [1, 8]
    assert set(pieces[2:-1]) == {51}  # 0.05 s of items that take 1/1024 s
    assert pace.size == 51
    assert list(pace.slices(0)) == []


def test_the_first_call_has_as_many_steps_as_are_surely_short(monkeypatch):
    assert [pacing.Pace.of_work(n).size for n in (0, 1e3, 5e6, 4.9e7, 1e12)] == [64, 64, 10, 1, 1]
    sizes, run_steps = [], training._run_steps
    monkeypatch.setattr(
        training, "_run_steps", lambda *given: (sizes.append(len(given[-1])), run_steps(*given))
    )
    train(make_net(), batch_size=1, epochs=1)
    assert sizes[0] == min(64, len(X))


def test_an_epoch_s_mean_counts_batches_by_the_weights_of_their_samples():
    def mean(losses, sample_weight, n, size):
        return training._mean_over_samples(losses, sample_weight, np.arange(n)[::-1], size)

    losses, equal = np.array([1.0, 1.0, 4.0]), np.empty(0)
    assert mean(losses, equal, 65, 32) == pytest.approx((64 + 4) / 65)
    assert mean(losses, np.ones(65), 65, 32) == pytest.approx((64 + 4) / 65)
    assert mean(losses[:1], equal, 5, 32) == 1
    weights = np.array([3, 0, 0, 2, 0.5])  # visited from the end
    assert mean(losses, weights, 5, 2) == pytest.approx((2.5 + 12) / 5.5)


def test_fit_does_not_change_its_input():
    x, y = copy.deepcopy((X, Y))
    train(make_net("float32"))
    np.testing.assert_array_equal(X, x)
    np.testing.assert_array_equal(Y, y)

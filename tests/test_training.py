"""Training: the same steps whichever way they are run, what is recorded, how it ends."""

from __future__ import annotations

import copy
import io
import sys

import numpy as np
import pytest

import fastmlp as fm
from fastmlp import backends, pacing, training

X, Y = fm.datasets.make_spirals(90, seed=0)


def make_net(dtype="float64"):
    return fm.MLP.from_sizes([2, 8, 3], activation="tanh", dtype=dtype, seed=0)


def train(net, **options):
    defaults = {"optimizer": fm.Adam(0.01), "epochs": 3, "batch_size": 32, "seed": 0, "verbose": 0}
    return net.fit(X, Y, **(defaults | options))


@pytest.mark.parametrize("shuffle", [True, False])
def test_fit_is_a_sequence_of_train_steps(shuffle):
    net, by_hand = make_net(), make_net()
    history = train(net, shuffle=shuffle)
    optimizer, generator = fm.Adam(0.01), np.random.default_rng(0)
    for epoch in range(3):
        order = generator.permutation(90) if shuffle else np.arange(90)
        batches = [order[:32], order[32:64], order[64:]]
        losses = [by_hand.train_step(X[b], Y[b], optimizer=optimizer) for b in batches]
        mean = np.average(losses, weights=[32, 32, 26])
        assert history.loss[epoch] == pytest.approx(mean, rel=1e-12)
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
    assert train(net, batch_size=10**30).n_steps == 3
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


def test_an_epoch_s_mean_counts_the_last_batch_by_its_size():
    losses = np.array([1.0, 1.0, 4.0])
    assert training._mean_over_samples(losses, 65, 32) == pytest.approx((64 + 4) / 65)
    assert training._mean_over_samples(losses[:1], 5, 32) == 1


def test_fit_does_not_change_its_input():
    x, y = copy.deepcopy((X, Y))
    train(make_net("float32"))
    np.testing.assert_array_equal(X, x)
    np.testing.assert_array_equal(Y, y)

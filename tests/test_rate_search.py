"""The range test: what it runs, where it stops, and what it suggests."""

from __future__ import annotations

import copy
import importlib.util
import sys

import numpy as np
import pytest

import fastmlp as fm
from fastmlp import LearningRateRange
from fastmlp.rate_search import LAG

X, Y = fm.datasets.make_spirals(100, seed=0)


def make_net():
    return fm.MLP.from_sizes([2, 16, 3], activation="tanh", seed=0)


def test_it_is_training_with_a_growing_rate():
    net, by_hand = make_net(), make_net()
    found = fm.find_learning_rate(
        net,
        X,
        Y,
        optimizer=fm.SGD(1, momentum=0.5),
        lowest=1e-3,
        highest=0.1,
        n_steps=12,
        batch_size=30,
        seed=5,
    )
    optimizer, generator, average = fm.SGD(1, momentum=0.5), np.random.default_rng(5), 0
    for step in range(12):
        if step % 3 == 0:
            order = generator.permutation(100)
        rows = order[step % 3 * 30 :][:30]
        optimizer.learning_rate = 1e-3 * 100 ** (step / 11)
        loss = by_hand.train_step(X[rows], Y[rows], optimizer=optimizer)
        average = 0.9 * average + 0.1 * loss
        assert found.rates[step] == pytest.approx(optimizer.learning_rate, rel=1e-12)
        assert found.losses[step] == pytest.approx(loss, rel=1e-6)
        assert found.smoothed[step] == pytest.approx(average / (1 - 0.9 ** (step + 1)), rel=1e-6)
    assert len(found.rates) == len(found.losses) == len(found.smoothed) == 12
    assert not found.diverged


def test_classes_are_balanced_by_all_samples():
    rows = np.flatnonzero((Y < 2) | (np.arange(100) % 7 == 0))
    x, y = X[rows], Y[rows]
    by_hand = fm.CrossEntropy(class_weight=len(y) / (3 * np.bincount(y)))
    balanced = fm.CrossEntropy(class_weight="balanced")
    found, expected = (
        fm.find_learning_rate(make_net(), x, y, loss, n_steps=9, batch_size=10, seed=0)
        for loss in (balanced, by_hand)
    )
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-6)


def test_network_and_optimizer_are_left_as_they_are():
    net, optimizer = make_net(), fm.Adam(0.02)
    net.train_step(X, Y, optimizer=optimizer)
    other, untouched = copy.deepcopy(net), fm.Adam(0.02)
    other_optimizer = untouched
    make_again = make_net()
    make_again.train_step(X, Y, optimizer=other_optimizer)
    fm.find_learning_rate(net, X, Y, optimizer=optimizer, seed=0)
    np.testing.assert_array_equal(net.get_parameters(), other.get_parameters())
    assert (optimizer.learning_rate, optimizer.step_count) == (0.02, 1)
    # The moments are as they were: both go on alike.
    net.train_step(X, Y, optimizer=optimizer)
    make_again.train_step(X, Y, optimizer=other_optimizer)
    np.testing.assert_array_equal(net.get_parameters(), make_again.get_parameters())


def test_a_seed_makes_it_reproducible():
    losses = [fm.find_learning_rate(make_net(), X, Y, seed=seed).losses for seed in (1, 1, 2)]
    np.testing.assert_array_equal(losses[0], losses[1])
    assert losses[0][0] != losses[2][0]


def test_it_stops_when_training_diverges():
    x, y = fm.datasets.make_noisy_sine(seed=0)
    net = fm.MLP.from_sizes([1, 32, 1], seed=0)
    found = fm.find_learning_rate(net, x, y, "mse", fm.SGD(1), highest=1e6, seed=0)
    assert found.diverged
    assert len(found.rates) < 200
    assert not found.smoothed[-1] <= 4 * found.smoothed.min()
    assert (found.smoothed[:-1] <= 4 * np.minimum.accumulate(found.smoothed)[:-1]).all()


@pytest.mark.filterwarnings("error")
def test_it_stops_when_the_loss_overflows():
    x, y = fm.datasets.make_noisy_sine(seed=0)
    net = fm.MLP.from_sizes([1, 32, 1], seed=0)
    settings = {"lowest": 1e-3, "highest": 1e38, "n_steps": 3, "seed": 0}
    found = fm.find_learning_rate(net, x, y, "mse", fm.SGD(1), **settings)
    assert found.diverged
    assert not np.isfinite(found.losses[-1])
    assert np.isfinite(found.losses[:-1]).all()
    repr(found)


def test_it_stops_at_a_loss_that_is_no_number(monkeypatch):
    losses = iter([3.0, 2.0, np.nan])
    monkeypatch.setattr(fm.MLP, "train_step", lambda *arguments, **keywords: next(losses))
    found = fm.find_learning_rate(make_net(), X, Y, seed=0)
    assert found.diverged
    assert len(found.losses) == 3


def test_a_batch_larger_than_the_data_is_all_of_it():
    runs = [
        fm.find_learning_rate(make_net(), X, Y, n_steps=9, batch_size=size, seed=0).losses
        for size in (100, 10**9)
    ]
    np.testing.assert_array_equal(*runs)


@pytest.mark.parametrize("make_optimizer", [fm.SGD, lambda a: fm.SGD(a, momentum=0.9), fm.Adam])
def test_the_suggestion_trains_well(make_optimizer):
    x, y, _, _ = fm.datasets.load_digits()

    def loss_after_training(rate):
        net = fm.MLP.from_sizes([64, 32, 10], seed=0)
        net.fit(x, y, optimizer=make_optimizer(rate), epochs=4, seed=0, verbose=0)
        return net.loss(x, y)

    net = fm.MLP.from_sizes([64, 32, 10], seed=0)
    found = fm.find_learning_rate(net, x, y, optimizer=make_optimizer(1), seed=0)
    suggested, start = loss_after_training(found.suggestion), net.loss(x, y)
    assert suggested < 0.5 < 2 < start
    assert suggested < loss_after_training(found.suggestion / 30) / 3
    assert suggested < loss_after_training(found.suggestion * 30) / 3


# --- The suggestion -------------------------------------------------------------------------


def make_range(losses, smoothed=None, low=-4.0, per_decade=20):
    losses = np.asarray(losses, float)
    rates = 10 ** (low + np.arange(len(losses)) / per_decade)
    smoothed = losses if smoothed is None else smoothed
    return LearningRateRange(rates, losses, np.asarray(smoothed, float), diverged=False)


def test_the_steepest_decade_and_a_tenth_of_the_minimum():
    # Falls by 0.1 a decade from 1e-4 on, by 1 between 1e-2 and 1e-1, lowest at 1, then rises.
    decades = np.array([-4, -2, -1, 0, 1])
    exponents = -4 + np.arange(101) / 20
    losses = np.interp(exponents, decades, [2, 1.8, 0.8, 0.7, 9])
    # The smoothed losses are behind, as those of a moving average are.
    found = make_range(losses, np.concatenate([np.full(LAG, 2), losses[:-LAG]]))
    assert found.steepest == pytest.approx(10**-1.5, rel=0.06)
    assert found.minimum_tenth == pytest.approx(0.1, rel=1e-9)
    assert found.suggestion == found.minimum_tenth
    assert repr(found).splitlines()[1:] == [
        "suggestion        0.1",
        "steepest descent  0.03",
        "minimum / 10      0.1",
    ]


def test_the_suggestion_is_the_larger_one():
    exponents = -4 + np.arange(101) / 20
    losses = np.interp(exponents, [-4, -0.9, 0, 1], [2, 2, 0.5, 9])
    found = make_range(losses, np.concatenate([np.full(LAG, 2), losses[:-LAG]]))
    assert found.minimum_tenth == pytest.approx(0.1, rel=1e-9)
    assert found.suggestion == found.steepest > 0.2


def test_what_falls_after_the_minimum_is_not_looked_at():
    losses = np.full(101, 2.0)
    losses[40:60] = np.linspace(2, 1, 20)
    losses[60:80] = np.linspace(1, 50, 20)
    losses[80:] = np.linspace(50, 1.5, 21)
    found = make_range(losses, np.concatenate([np.full(LAG, 2), losses[:-LAG]]))
    assert found.steepest == pytest.approx(10 ** (-4 + 49.5 / 20), rel=0.06)


@pytest.mark.parametrize("losses", [np.full(60, 1.0), np.linspace(1, 2, 60), [1.0, 0.9]])
def test_without_a_fall_there_is_no_suggestion(losses):
    found = make_range(losses)
    assert found.suggestion is found.steepest is found.minimum_tenth is None
    assert "no suggestion: the loss never falls" in repr(found)


def test_a_rising_network_prints_what_to_do():
    net = make_net()
    found = fm.find_learning_rate(
        net, X, Y, optimizer=fm.SGD(1), lowest=1e3, highest=1e4, n_steps=20, seed=0
    )
    assert found.diverged
    assert found.suggestion is None
    assert repr(found).splitlines()[0].endswith("until training diverged")


# --- The plot -------------------------------------------------------------------------------


@pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="plots are those of matplotlib"
)
@pytest.mark.filterwarnings("error:Attempting")
def test_the_plot_shows_losses_and_suggestion():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = fm.find_learning_rate(make_net(), X, Y, seed=0)
    ax = found.plot()
    dots, line, suggestion = ax.get_lines()
    np.testing.assert_array_equal(dots.get_xydata(), np.c_[found.rates, found.losses])
    np.testing.assert_array_equal(line.get_xydata(), np.c_[found.rates, found.smoothed])
    assert suggestion.get_xdata() == [found.suggestion] * 2
    assert ax.get_xscale() == "log"
    low, high = ax.get_ylim()
    assert low < found.smoothed.min() < found.smoothed[0] < high
    _, given = pyplot.subplots()
    assert make_range(np.ones(9)).plot(given) is given
    assert len(given.get_lines()) == 2
    pyplot.close("all")


def test_without_matplotlib_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'needs matplotlib: `pip install "fastmlp\[plot\]"`'):
        make_range(np.ones(9)).plot()


# --- What comes in --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lowest": 0}, ValueError, r"lowest must be a number in \(0, inf\), got 0"),
        ({"highest": 1e-6}, ValueError, r"highest must be a number in \(1e-06, inf\)"),
        ({"n_steps": 1}, ValueError, "n_steps must be an integer of at least 2"),
        ({"batch_size": 0}, ValueError, "batch_size must be an integer of at least 1"),
        ({"optimizer": 0.1}, TypeError, "optimizer must be an object such as"),
        ({"X": X[0], "y": Y[0]}, ValueError, r"X must have shape \(n_samples, 2\), got \(2,\)"),
        ({"X": X * np.nan}, ValueError, "X must be finite"),
        ({"y": Y + 5}, ValueError, "y must hold labels from 0 to 2"),
        ({"y": np.full((100, 3), np.inf), "loss": "mse"}, ValueError, "y must be finite"),
        ({"seed": -1}, ValueError, "seed must be an integer"),
    ],
)
def test_wrong_input_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        fm.find_learning_rate(make_net(), **({"X": X, "y": Y} | options))


def test_a_network_without_a_finite_loss_is_refused():
    net = make_net()
    net.weights[0][...] = np.nan
    with pytest.raises(ValueError, match="net must have a finite loss to begin with"):
        fm.find_learning_rate(net, X, Y)

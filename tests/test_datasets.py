"""Data: the digits are those of scikit-learn, the generators draw what they say."""

from __future__ import annotations

import numpy as np
import pytest

from fastmlp import datasets

GENERATORS = {
    "moons": (datasets.make_moons, 2),
    "spirals": (datasets.make_spirals, 3),
    "xor": (datasets.make_xor, 2),
}


def test_digits_are_scikit_learn_s():
    theirs = pytest.importorskip("sklearn.datasets").load_digits()
    X_train, y_train, X_test, y_test = datasets.load_digits()
    assert (X_train.shape, X_test.shape) == ((1437, 64), (360, 64))
    assert (X_train.dtype, y_train.dtype) == (np.float32, np.int64)
    assert (X_train.min(), X_train.max()) == (0, 1)
    ours = np.column_stack([np.vstack([X_train, X_test]) * 16, np.concatenate([y_train, y_test])])
    expected = np.column_stack([theirs.data, theirs.target])
    np.testing.assert_array_equal(_sorted_rows(ours), _sorted_rows(expected))


def _sorted_rows(table):
    return table[np.lexsort(table.T)]


def test_the_parts_of_the_digits_have_every_class_alike():
    _, y_train, _, y_test = datasets.load_digits()
    share = np.bincount(y_test) / (np.bincount(y_train) + np.bincount(y_test))
    assert np.abs(share - 360 / 1797).max() < 0.004  # half a sample


@pytest.mark.parametrize("name", GENERATORS)
def test_classes_are_balanced_and_seeded(name):
    make, n_classes = GENERATORS[name]
    X, y = make(301, seed=5)
    assert (X.shape, X.dtype, y.shape, y.dtype) == ((301, 2), np.float32, (301,), np.int64)
    assert np.ptp(np.bincount(y, minlength=n_classes)) <= 1
    assert (np.diff(y) != 0).any()
    again, other = make(301, seed=5), make(301, seed=6)
    np.testing.assert_array_equal(again[0], X)
    np.testing.assert_array_equal(again[1], y)
    assert (other[0] != X).any()
    generator = make(301, seed=np.random.default_rng(5))
    np.testing.assert_array_equal(generator[0], X)


def test_moons_are_half_circles():
    X, y = datasets.make_moons(100, noise=0, seed=0)
    centres = np.where(y[:, None] == 0, [0, 0], [1, 0.5])
    np.testing.assert_allclose(np.linalg.norm(X - centres, axis=1), 1, rtol=1e-6)
    assert (X[y == 0, 1] >= 0).all()
    assert (X[y == 1, 1] <= 0.5).all()


def test_xor_is_the_exclusive_or_of_the_corner():
    X, y = datasets.make_xor(100, noise=0, seed=0)
    corners = X.astype(int)
    np.testing.assert_array_equal(corners, X)
    np.testing.assert_array_equal(y, corners[:, 0] ^ corners[:, 1])
    assert len(np.unique(corners, axis=0)) == 4


@pytest.mark.parametrize("n_classes", [2, 5])
def test_spiral_arms_are_turns_of_each_other(n_classes):
    X, y = datasets.make_spirals(500, n_classes, noise=0, seed=0)
    radius = np.linalg.norm(X, axis=1)
    turn = np.arctan2(X[:, 1], X[:, 0]) / (2 * np.pi) - 0.7 * radius - y / n_classes
    np.testing.assert_allclose(turn, np.round(turn), atol=1e-5)
    assert 0.1 <= radius.min() < radius.max() <= 1


def test_noise_has_its_standard_deviation():
    for make, n_columns in ((datasets.make_moons, 2), (datasets.make_noisy_sine, 1)):
        clean, noisy = make(4000, noise=0, seed=0), make(4000, noise=0.2, seed=0)
        values = [d[0] if n_columns == 2 else d[1] for d in (clean, noisy)]
        assert (values[1] - values[0]).std() == pytest.approx(0.2, rel=0.05)


def test_sine():
    X, y = datasets.make_noisy_sine(50, noise=0, seed=0)
    assert X.shape == y.shape == (50, 1)
    assert (np.diff(X[:, 0]) >= 0).all()
    np.testing.assert_allclose(y, np.sin(2 * np.pi * X), atol=1e-6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: datasets.make_moons(1), "n must be an integer of at least 2, got 1"),
        (lambda: datasets.make_spirals(9, 1), "n_classes must be an integer of at least 2, got 1"),
        (lambda: datasets.make_xor(9, noise=-1), r"noise must be a number in \[0, inf\), got -1"),
        (lambda: datasets.make_noisy_sine(0), "n must be an integer of at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()

"""Initial weights: the variance of the papers, one seed for both dtypes, defaults that fit."""

from __future__ import annotations

import numpy as np
import pytest

import fastmlp as fm
from fastmlp.initializers import INITIALIZERS

N_IN, N_OUT = 300, 200

#: Variance and largest entry; that of a normal distribution is not bounded.
EXPECTED = {
    "he_normal": (2 / N_IN, None),
    "he_uniform": (2 / N_IN, np.sqrt(6 / N_IN)),
    "glorot_normal": (2 / (N_IN + N_OUT), None),
    "glorot_uniform": (2 / (N_IN + N_OUT), np.sqrt(6 / (N_IN + N_OUT))),
    "zeros": (0, 0),
}


@pytest.mark.parametrize("name", INITIALIZERS)
def test_distribution(name):
    variance, bound = EXPECTED[name]
    weight = fm.Dense(N_IN, N_OUT, initializer=name).draw_weight(np.random.default_rng(0))
    assert weight.shape == (N_OUT, N_IN)
    # The relative error of a variance is √(2/n) = 0.6 %, of a mean in σ √(1/n) = 0.4 %.
    assert weight.var() == pytest.approx(variance, rel=0.03)
    assert abs(weight.mean()) <= 0.02 * np.sqrt(variance)
    if bound is None:
        assert np.abs(weight).max() > 3.5 * np.sqrt(variance)
    else:
        assert 0.99 * bound <= np.abs(weight).max() <= bound


@pytest.mark.parametrize(
    ("activation", "initializer"),
    [
        ("relu", "he_normal"),
        ("leaky_relu", "he_normal"),
        ("tanh", "glorot_uniform"),
        ("identity", "glorot_uniform"),
    ],
)
def test_default_suits_the_activation(activation, initializer):
    nets = [fm.MLP([fm.Dense(9, 8, activation, name)], seed=4) for name in (None, initializer)]
    np.testing.assert_array_equal(nets[0].get_parameters(), nets[1].get_parameters())
    assert nets[0].weights[0].any()


def test_one_seed_gives_one_network_in_both_dtypes():
    single, double = (fm.MLP.from_sizes([5, 4, 3], dtype=d, seed=7) for d in ("float32", "float64"))
    np.testing.assert_array_equal(
        single.get_parameters(), double.get_parameters().astype(np.float32)
    )
    other = fm.MLP.from_sizes([5, 4, 3], seed=8)
    assert (single.weights[0] != other.weights[0]).all()


def test_without_a_seed_networks_differ():
    first, second = fm.MLP.from_sizes([5, 4]), fm.MLP.from_sizes([5, 4])
    assert (first.weights[0] != second.weights[0]).all()


def test_biases_start_at_zero():
    assert not any(bias.any() for bias in fm.MLP.from_sizes([5, 4, 3], seed=0).biases)


def test_a_user_s_initializer():
    def ramp(generator, n_in, n_out):
        return np.arange(n_out * n_in).reshape(n_out, n_in) + generator.integers(5, 6)

    net = fm.MLP.from_sizes([3, 2], initializer=ramp)
    np.testing.assert_array_equal(net.weights[0], [[5, 6, 7], [8, 9, 10]])


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (
            lambda g, n_in, n_out: np.zeros((n_in, n_out)),
            ValueError,
            r"shape \(2, 3\), got \(3, 2\)",
        ),
        (lambda g, n_in, n_out: np.full((n_out, n_in), np.nan), ValueError, "must be finite"),
        (lambda g, n_in, n_out: "weights", TypeError, "initializer's result must hold real"),
    ],
)
def test_a_wrong_initializer_is_refused(function, error, message):
    with pytest.raises(error, match=message):
        fm.MLP.from_sizes([3, 2], initializer=function)

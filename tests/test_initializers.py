"""Initial weights: the variance of the papers, one seed for both dtypes, defaults that fit."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import fastmlp as fm
from fastmlp.initializers import (
    INITIALIZERS,
    constant,
    he_normal,
    normal,
    orthogonal,
    uniform,
)
from fastmlp.kernels import catalogue

N_IN, N_OUT = 300, 200

#: Variance and largest entry; that of a normal distribution is not bounded.
EXPECTED = {
    "he_normal": (2 / N_IN, None),
    "he_uniform": (2 / N_IN, np.sqrt(6 / N_IN)),
    "glorot_normal": (2 / (N_IN + N_OUT), None),
    "glorot_uniform": (2 / (N_IN + N_OUT), np.sqrt(6 / (N_IN + N_OUT))),
    "lecun_normal": (1 / N_IN, None),
    "lecun_uniform": (1 / N_IN, np.sqrt(3 / N_IN)),
    "orthogonal": (1 / N_IN, None),
    "normal": (0.05**2, None),
    "uniform": (0.05**2 / 3, 0.05),
    "zeros": (0, 0),
}


def test_all_initializers_are_tested():
    assert set(EXPECTED) | {"constant"} == set(INITIALIZERS)


@pytest.mark.parametrize("name", EXPECTED)
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


@pytest.mark.parametrize("name", ["he_normal", "he_uniform"])
def test_he_takes_the_slope_below_0_into_account(name):
    draw = INITIALIZERS[name]
    flat, sloped = (draw(np.random.default_rng(0), 5, 4, slope=slope) for slope in (0, 3))
    np.testing.assert_allclose(flat, sloped * np.sqrt(10))
    layer = fm.Dense(5, 4, "leaky_relu", alpha=3)
    default = layer.draw_weight(np.random.default_rng(0))
    np.testing.assert_array_equal(default, he_normal(np.random.default_rng(0), 5, 4, slope=3))


@pytest.mark.parametrize(("n_in", "n_out"), [(5, 5), (9, 4), (4, 9), (1, 3), (3, 1)])
def test_orthogonal(n_in, n_out):
    weight = orthogonal(np.random.default_rng(0), n_in, n_out, gain=2)
    assert weight.shape == (n_out, n_in)
    gram = weight @ weight.T if n_out <= n_in else weight.T @ weight
    np.testing.assert_allclose(gram, 4 * np.eye(min(n_in, n_out)), atol=1e-14)


def test_orthogonal_matrices_are_equally_likely():
    # An entry of a random rotation has mean 0, which Q without the signs of R has not.
    draws = [orthogonal(np.random.default_rng(seed), 3, 3) for seed in range(600)]
    assert np.abs(np.mean(draws, axis=0)).max() < 5 / np.sqrt(3 * 600)


def test_parameters_of_initializers():
    def draw(function, **parameters):
        layer = fm.Dense(50, 40, initializer=functools.partial(function, **parameters))
        return layer.draw_weight(np.random.default_rng(0))

    assert draw(normal, std=3.0).std() == pytest.approx(3, rel=0.05)
    assert 0.99 * 3 <= np.abs(draw(uniform, bound=3.0)).max() <= 3
    assert (draw(constant, value=3.0) == 3).all()
    assert (fm.Dense(5, 4, initializer="constant").draw_weight(None) == 0.01).all()


@pytest.mark.parametrize("row", catalogue.ACTIVATIONS, ids=lambda row: row.name)
def test_every_default_is_an_initializer(row):
    net = fm.MLP.from_sizes([5, 4], output_activation=row.name, seed=0)
    assert net.weights[0].any()


@pytest.mark.parametrize(
    ("activation", "initializer"),
    [
        ("selu", "lecun_normal"),
        ("gelu", "he_normal"),
        ("sigmoid", "glorot_uniform"),
        ("relu", "he_normal"),
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

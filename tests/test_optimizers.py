"""Optimizers: the published recurrences, checked hyperparameters, state of one network."""

from __future__ import annotations

import copy
import gc
import pickle

import numpy as np
import pytest

import fastmlp as fm

X = np.random.default_rng(0).normal(size=(12, 4))
Y = np.random.default_rng(1).normal(size=(12, 2))


def sgd(theta, grad, memory, t, learning_rate, momentum, weight_decay):
    """Polyak's heavy ball."""
    grad = grad + weight_decay * theta
    memory["v"] = momentum * memory.get("v", 0) - learning_rate * grad
    return theta + memory["v"]


def adam(theta, grad, memory, t, learning_rate, beta1, beta2, eps, weight_decay):
    """Kingma and Ba's algorithm 1, with weight decay as PyTorch's Adam has it."""
    grad = grad + weight_decay * theta
    memory["m"] = beta1 * memory.get("m", 0) + (1 - beta1) * grad
    memory["v"] = beta2 * memory.get("v", 0) + (1 - beta2) * grad**2
    m, v = memory["m"] / (1 - beta1**t), memory["v"] / (1 - beta2**t)
    return theta - learning_rate * m / (np.sqrt(v) + eps)


CASES = [
    (fm.SGD, sgd, {"learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0.0}),
    (fm.SGD, sgd, {"learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0.3}),
    (fm.SGD, sgd, {"learning_rate": 0.05, "momentum": 0.8, "weight_decay": 0.02}),
    (
        fm.Adam,
        adam,
        {"learning_rate": 0.02, "beta1": 0.7, "beta2": 0.95, "eps": 0.01, "weight_decay": 0.1},
    ),
    (
        fm.Adam,
        adam,
        {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0},
    ),
    (
        fm.Adam,
        adam,
        {"learning_rate": 0.1, "beta1": 0.0, "beta2": 0.0, "eps": 0.1, "weight_decay": 0.0},
    ),
]


@pytest.mark.parametrize(("optimizer", "recurrence", "options"), CASES)
def test_steps_follow_the_recurrence(backend, optimizer, recurrence, options):
    net = fm.MLP.from_sizes([4, 5, 2], activation="tanh", dtype="float64", seed=0)
    by_hand = copy.deepcopy(net)
    chosen, memory = optimizer(**options), {}
    with fm.use_backend(backend):
        for t in range(1, 6):
            value, grad = by_hand.value_and_grad(X, Y, "quadratic")
            step = recurrence(by_hand.get_parameters(), grad.to_vector(), memory, t, **options)
            by_hand.set_parameters(step)
            assert net.train_step(X, Y, "quadratic", optimizer=chosen) == pytest.approx(value)
            assert chosen.step_count == t
            np.testing.assert_allclose(net.get_parameters(), step, rtol=1e-9, atol=1e-12)


def test_defaults_are_those_of_the_papers():
    assert repr(fm.Adam()) == "Adam(learning_rate=0.001, beta1=0.9, beta2=0.999, eps=1e-08, " + (
        "weight_decay=0)"
    )
    assert repr(fm.SGD(0.1)) == "SGD(learning_rate=0.1, momentum=0, weight_decay=0)"


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: fm.SGD(0), ValueError, r"learning_rate must be a number in \(0, inf\), got 0"),
        (lambda: fm.SGD(np.inf), ValueError, "learning_rate must be a number in"),
        (lambda: fm.SGD(np.nan), ValueError, "learning_rate must be a number in"),
        (lambda: fm.SGD("0.1"), TypeError, "learning_rate must be a number in .*, got '0.1'"),
        (lambda: fm.SGD([0.1]), TypeError, "learning_rate must be a number in"),
        (lambda: fm.SGD(0.1, 1.0), ValueError, r"momentum must be a number in \[0, 1\), got 1.0"),
        (lambda: fm.SGD(0.1, weight_decay=-1), ValueError, r"weight_decay .* \[0, inf\), got -1"),
        (lambda: fm.Adam(beta1=1), ValueError, r"beta1 must be a number in \[0, 1\), got 1"),
        (lambda: fm.Adam(beta2=-0.1), ValueError, "beta2 must be a number in"),
        (lambda: fm.Adam(eps=0), ValueError, r"eps must be a number in \(0, inf\), got 0"),
        (lambda: setattr(fm.Adam(), "learning_rate", -1), ValueError, "learning_rate must be"),
    ],
)
def test_wrong_hyperparameters_are_refused(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_state_belongs_to_one_network():
    nets = [fm.MLP.from_sizes([4, 3, 2], seed=seed) for seed in (0, 1)]
    optimizer = fm.Adam()
    nets[0].train_step(X, Y, "mse", optimizer=optimizer)
    before = nets[1].get_parameters()
    for train in (nets[1].train_step, nets[1].fit):
        with pytest.raises(ValueError, match="state of another network"):
            train(X, Y, "mse", optimizer=optimizer)
    np.testing.assert_array_equal(nets[1].get_parameters(), before)
    optimizer.reset()
    nets[1].train_step(X, Y, "mse", optimizer=optimizer)
    assert optimizer.step_count == 1


def test_an_optimizer_outlives_its_network():
    net = fm.MLP.from_sizes([4, 2], seed=0)
    optimizer = fm.Adam()
    net.train_step(X, Y, "mse", optimizer=optimizer)
    del net
    gc.collect()
    with pytest.raises(ValueError, match="state of another network"):
        fm.MLP.from_sizes([4, 2], seed=0).train_step(X, Y, "mse", optimizer=optimizer)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies_start_afresh(duplicate):
    optimizer = fm.SGD(0.1, momentum=0.5)
    fm.MLP.from_sizes([4, 2], seed=0).train_step(X, Y, "mse", optimizer=optimizer)
    other = duplicate(optimizer)
    assert repr(other) == repr(optimizer)
    assert (optimizer.step_count, other.step_count) == (1, 0)
    fm.MLP.from_sizes([4, 2], seed=1).train_step(X, Y, "mse", optimizer=other)


def test_hyperparameters_may_change_between_steps():
    net = fm.MLP.from_sizes([4, 2], dtype="float64", seed=0)
    optimizer = fm.SGD(1e-30)
    before = net.get_parameters()
    net.train_step(X, Y, "mse", optimizer=optimizer)
    np.testing.assert_allclose(net.get_parameters(), before, atol=1e-29)
    optimizer.learning_rate, optimizer.momentum = 0.1, 0.9
    net.train_step(X, Y, "mse", optimizer=optimizer)
    assert (np.abs(net.get_parameters() - before) > 1e-6).all()


def test_coefficients_of_many_steps_are_those_of_each():
    optimizer = fm.Adam()
    optimizer.step_count = 3
    together = optimizer.coefficients(4)
    for row in together:
        np.testing.assert_array_equal(optimizer.coefficients(1)[0], row)
        optimizer.step_count += 1


def test_only_optimizers_are_taken():
    net = fm.MLP.from_sizes([4, 2], seed=0)
    with pytest.raises(TypeError, match=r"optimizer must be an object such as Adam\(\), got 0.1"):
        net.train_step(X, Y, "mse", optimizer=0.1)


def test_adam_in_float32_keeps_the_digits_of_one_minus_beta(backend):
    steps = []
    for dtype in ("float32", "float64"):
        net = fm.MLP.from_sizes([3, 2], dtype=dtype, seed=0)
        before = net.get_parameters()
        with fm.use_backend(backend):
            net.train_step(np.ones((4, 3)), [0, 1, 1, 1], optimizer=fm.Adam(beta2=1 - 1e-8))
        steps.append(net.get_parameters() - before)
    np.testing.assert_allclose(*steps, rtol=1e-3)

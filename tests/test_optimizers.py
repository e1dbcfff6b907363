"""Optimizers: the published recurrences, checked hyperparameters, state of one network."""

from __future__ import annotations

import copy
import gc
import pickle
import re

import numpy as np
import pytest

import fastmlp as fm

X = np.random.default_rng(0).normal(size=(12, 4))
Y = np.random.default_rng(1).normal(size=(12, 2))


def heavy_ball(theta, grad, memory, t, learning_rate, momentum=0.0, dampening=0.0):
    """Polyak's equation 9, in the last change of θ."""
    change = momentum * memory.get("change", 0) - learning_rate * (1 - dampening) * grad
    memory["change"] = change
    return theta + change


def ema(theta, grad, memory, t, learning_rate, momentum, momentum_style):
    assert momentum_style == "ema"
    memory["mean"] = momentum * memory.get("mean", 0) + (1 - momentum) * grad
    return theta - learning_rate * memory["mean"]


def adagrad(theta, grad, memory, t, learning_rate, eps, initial_accumulator_value):
    memory["sum"] = memory.get("sum", initial_accumulator_value) + grad**2
    return theta - learning_rate * grad / (np.sqrt(memory["sum"]) + eps)


def rmsprop(theta, grad, memory, t, learning_rate, beta, eps, momentum=0.0, centered=False):
    memory["square"] = beta * memory.get("square", 0) + (1 - beta) * grad**2
    memory["mean"] = beta * memory.get("mean", 0) + (1 - beta) * grad
    variance = memory["square"] - centered * memory["mean"] ** 2
    memory["v"] = momentum * memory.get("v", 0) + grad / (np.sqrt(variance) + eps)
    return theta - learning_rate * memory["v"]


def moments(grad, memory, beta1, beta2):
    """Return the moments of Adam, divided by the sum of the gradients' weights in them."""
    for name, beta, power in (("m", beta1, 1), ("v", beta2, 2)):
        memory[name] = beta * memory.get(name, 0) + (1 - beta) * grad**power
        memory["sum" + name] = beta * memory.get("sum" + name, 0) + (1 - beta)
    return memory["m"] / memory["summ"], memory["v"] / memory["sumv"]


def adam(theta, grad, memory, t, learning_rate, beta1, beta2, eps):
    """Kingma and Ba's algorithm 1."""
    m, v = moments(grad, memory, beta1, beta2)
    return theta - learning_rate * m / (np.sqrt(v) + eps)


def adamax(theta, grad, memory, t, learning_rate, beta1, beta2, eps):
    m, _ = moments(grad, memory, beta1, beta2)
    memory["u"] = np.maximum(beta2 * memory.get("u", 0), np.abs(grad) + eps)
    return theta - learning_rate * m / memory["u"]


def nadam(theta, grad, memory, t, learning_rate, beta1, beta2, eps, momentum_decay):
    """Dozat's algorithm 2, for a β₁ and a ψ that stay."""
    _, v = moments(grad, memory, beta1, beta2)
    mu = [beta1 * (1 - 0.5 * 0.96 ** (i * momentum_decay)) for i in range(1, t + 2)]
    m = mu[-1] * memory["m"] / (1 - np.prod(mu)) + (1 - mu[-2]) * grad / (1 - np.prod(mu[:-1]))
    return theta - learning_rate * m / (np.sqrt(v) + eps)


def lion(theta, grad, memory, t, learning_rate, beta1, beta2):
    mean = memory.get("m", 0)
    memory["m"] = beta2 * mean + (1 - beta2) * grad
    return theta - learning_rate * np.sign(beta1 * mean + (1 - beta1) * grad)


def falling(k):
    return 0.1 / (1 + k)


def rising(k):
    return 0.9 * (k + 1) / (k + 3)


ADAM = {"learning_rate": 0.02, "beta1": 0.7, "beta2": 0.95, "eps": 0.01}
CASES = [
    (fm.SGD, heavy_ball, {"learning_rate": 0.1}),
    (fm.SGD, heavy_ball, {"learning_rate": 0.05, "momentum": 0.8, "dampening": 0.3}),
    (fm.SGD, heavy_ball, {"learning_rate": falling, "momentum": rising, "dampening": falling}),
    (fm.SGD, ema, {"learning_rate": 0.1, "momentum": 0.8, "momentum_style": "ema"}),
    (fm.SGD, ema, {"learning_rate": falling, "momentum": rising, "momentum_style": "ema"}),
    (fm.Adagrad, adagrad, {"learning_rate": 0.1, "eps": 0.1, "initial_accumulator_value": 0.0}),
    (fm.Adagrad, adagrad, {"learning_rate": 0.1, "eps": 0.1, "initial_accumulator_value": 2.0}),
    (fm.RMSprop, rmsprop, {"learning_rate": 0.01, "beta": 0.8, "eps": 0.1}),
    (fm.RMSprop, rmsprop, {"learning_rate": 0.01, "beta": rising, "eps": 0.1, "momentum": 0.7}),
    (
        fm.RMSprop,
        rmsprop,
        {"learning_rate": 0.01, "beta": 0.8, "eps": 0.1, "momentum": rising, "centered": True},
    ),
    (fm.Adam, adam, ADAM),
    (fm.Adam, adam, {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}),
    (fm.Adam, adam, {"learning_rate": 0.1, "beta1": 0.0, "beta2": 0.0, "eps": 0.1}),
    (fm.Adam, adam, ADAM | {"beta1": rising, "beta2": lambda k: 0.5 + 0.1 * k}),
    (fm.Adamax, adamax, ADAM | {"beta1": rising, "learning_rate": falling}),
    (fm.NAdam, nadam, ADAM | {"momentum_decay": 0.3}),
    (fm.Lion, lion, {"learning_rate": 0.01, "beta1": 0.7, "beta2": 0.8}),
]
DECAYS = [
    {"weight_decay": 0.0},
    {"weight_decay": 0.3},
    {"weight_decay": falling, "decoupled_weight_decay": True},
]


def at_step(options, k):
    """Return numbers, and the values of schedules at a step."""
    return {name: value(k) if callable(value) else value for name, value in options.items()}


@pytest.mark.parametrize("decay", DECAYS, ids=["no decay", "coupled", "decoupled"])
@pytest.mark.parametrize(("optimizer", "recurrence", "options"), CASES)
def test_steps_follow_the_recurrence(backend, optimizer, recurrence, options, decay):
    if optimizer is fm.Lion:
        decay = decay | {"decoupled_weight_decay": True}
    net = fm.MLP.from_sizes([4, 5, 2], activation="tanh", dtype="float64", seed=0)
    by_hand = copy.deepcopy(net)
    chosen, memory = optimizer(**options, **decay), {}
    with fm.use_backend(backend):
        for t in range(1, 6):
            value, grad = by_hand.value_and_grad(X, Y, "quadratic")
            theta, grad = by_hand.get_parameters(), grad.to_vector()
            now = at_step(options, t - 1)
            rate = at_step(decay, t - 1)["weight_decay"]
            shrinkage = now["learning_rate"] * rate * theta
            coupled = "decoupled_weight_decay" not in decay
            step = recurrence(theta, grad + rate * theta * coupled, memory, t, **now)
            by_hand.set_parameters(step if coupled else step - shrinkage)
            assert net.train_step(X, Y, "quadratic", optimizer=chosen) == pytest.approx(value)
            assert chosen.step_count == t
            np.testing.assert_allclose(
                net.get_parameters(), by_hand.get_parameters(), rtol=1e-9, atol=1e-12
            )


@pytest.mark.parametrize("momentum", [0.8, lambda k: k / (k + 3), rising])
def test_nesterov_is_the_recurrence_of_two_sequences(backend, momentum):
    net = fm.MLP.from_sizes([4, 5, 2], activation="tanh", dtype="float64", seed=0)
    beta = momentum if callable(momentum) else lambda k: momentum
    optimizer = fm.SGD(falling, momentum, momentum_style="nesterov")
    theta = last = net.get_parameters()
    lookahead = copy.deepcopy(net)
    with fm.use_backend(backend):
        for k in range(20):
            lookahead.set_parameters(theta + beta(k) * (theta - last))
            np.testing.assert_allclose(
                net.get_parameters(), lookahead.get_parameters(), rtol=0, atol=1e-12
            )
            _, grad = lookahead.value_and_grad(X, Y, "quadratic")
            step = lookahead.get_parameters() - falling(k) * grad.to_vector()
            theta, last = step, theta
            net.train_step(X, Y, "quadratic", optimizer=optimizer)
            iterate = net.get_parameters() - optimizer.state["lookahead"].to_vector()
            np.testing.assert_allclose(iterate, theta, rtol=0, atol=1e-12)


def test_a_momentum_changed_by_hand_is_that_of_the_next_look_ahead():
    nets = [fm.MLP.from_sizes([4, 2], dtype="float64", seed=0) for _ in range(2)]
    by_hand = fm.SGD(0.1, 0.5, momentum_style="nesterov")
    schedule = fm.SGD(0.1, lambda k: 0.5 if k < 3 else 0.9, momentum_style="nesterov")
    for k in range(6):
        if k == 2:
            by_hand.momentum = 0.9
        for net, optimizer in zip(nets, (by_hand, schedule), strict=True):
            net.train_step(X, Y, "mse", optimizer=optimizer)
    np.testing.assert_array_equal(nets[0].get_parameters(), nets[1].get_parameters())


# --- Clipping and averages ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "clip"),
    [
        ({"clip_value": 0.05}, lambda g: np.clip(g, -0.05, 0.05)),
        ({"clip_norm": 0.1}, lambda g: g * min(1, 0.1 / np.linalg.norm(g))),
        ({"clip_norm": 1e3}, lambda g: g),
        (
            {"clip_value": 0.05, "clip_norm": 0.1},
            lambda g: np.clip(g, -0.05, 0.05) * 0.1 / np.linalg.norm(np.clip(g, -0.05, 0.05)),
        ),
    ],
)
@pytest.mark.parametrize("n_samples", [1, 12])
def test_clipping(backend, limits, clip, n_samples):
    net = fm.MLP.from_sizes([4, 5, 2], activation="tanh", dtype="float64", seed=0)
    optimizer = fm.SGD(0.5, weight_decay=0.1, **limits)
    with fm.use_backend(backend):
        for _ in range(4):
            theta = net.get_parameters()
            grad = clip(net.value_and_grad(X[:n_samples], Y[:n_samples], "mse")[1].to_vector())
            net.train_step(X[:n_samples], Y[:n_samples], "mse", optimizer=optimizer)
            expected = theta - 0.5 * (grad + 0.1 * theta)
            np.testing.assert_allclose(net.get_parameters(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("start", [0, 3])
@pytest.mark.parametrize("decay", [None, 0.0, 0.7])
def test_average_of_iterates(backend, decay, start):
    net = fm.MLP.from_sizes([4, 5, 2], dtype="float64", seed=0)
    optimizer = fm.Adam(0.1, average=fm.ParameterAverage(decay, start), clip_norm=1)
    iterates = []
    with fm.use_backend(backend):
        for k in range(8):
            if k <= start:
                with pytest.raises(ValueError, match=r"no average|begins after step"):
                    optimizer.averaged(net)
            net.train_step(X, Y, "mse", optimizer=optimizer)
            iterates.append(net.get_parameters())
    expected = np.mean(iterates[start:], axis=0)
    if decay is not None:
        expected = iterates[start]
        for theta in iterates[start + 1 :]:
            expected = decay * expected + (1 - decay) * theta
    averaged = optimizer.averaged(net)
    np.testing.assert_allclose(averaged.get_parameters(), expected, rtol=1e-12, atol=1e-14)
    assert (averaged.loss(X, Y, "mse") == net.loss(X, Y, "mse")) == (decay == 0)
    np.testing.assert_array_equal(net.get_parameters(), iterates[-1])


def test_averaging_leaves_training_alone(backend):
    nets = [fm.MLP.from_sizes([4, 5, 2], seed=0) for _ in range(2)]
    optimizers = fm.Adam(), fm.Adam(average=fm.ParameterAverage(0.9))
    for net, optimizer in zip(nets, optimizers, strict=True):
        with fm.use_backend(backend):
            options = {"epochs": 3, "batch_size": 5, "verbose": 0, "seed": 0}
            net.fit(X, Y, "mse", optimizer, **options)
    np.testing.assert_array_equal(nets[0].get_parameters(), nets[1].get_parameters())


def test_an_average_may_begin_during_training():
    net = fm.MLP.from_sizes([4, 2], dtype="float64", seed=0)
    optimizer = fm.SGD(0.1, 0.5)
    net.train_step(X, Y, "mse", optimizer=optimizer)
    velocity, theta = optimizer.state["velocity"].to_vector(), net.get_parameters()
    optimizer.average = fm.ParameterAverage(0.9)
    optimizer.bind(net.parameters)
    np.testing.assert_array_equal(optimizer.state["velocity"].to_vector(), velocity)
    net.train_step(X, Y, "mse", optimizer=optimizer)
    expected = 0.9 * theta + 0.1 * net.get_parameters()
    np.testing.assert_allclose(optimizer.averaged(net).get_parameters(), expected, rtol=1e-12)


def test_the_average_of_another_network_is_refused():
    nets = [fm.MLP.from_sizes([4, 2], seed=0) for _ in range(2)]
    optimizer = fm.SGD(0.1, average=fm.ParameterAverage())
    nets[0].train_step(X, Y, "mse", optimizer=optimizer)
    with pytest.raises(ValueError, match="has the average of another network"):
        optimizer.averaged(nets[1])
    with pytest.raises(ValueError, match=r"no average: create it with average=ParameterAverage"):
        fm.SGD(0.1).averaged(nets[0])


# --- Schedules ----------------------------------------------------------------------------


def test_a_schedule_is_asked_for_every_step_from_0():
    asked = []
    optimizer = fm.SGD(lambda k: asked.append(k) or 0.1)
    net = fm.MLP.from_sizes([4, 2], seed=0)
    net.fit(X, Y, "mse", optimizer, epochs=2, batch_size=5, verbose=0)
    assert asked == list(range(6))


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (
            lambda bad: fm.SGD(lambda k: bad if k == 2 else 0.1),
            ValueError,
            r"learning_rate at step 2 must be a number in \[0, inf\), got -1",
        ),
        (
            lambda bad: fm.SGD(0.1, lambda k: bad if k == 3 else 0.9),
            ValueError,
            r"momentum at step 3 must be a number in \[0, 1\), got -1",
        ),
        (lambda bad: fm.Adam(beta1=lambda k: str(bad)), TypeError, "beta1 at step 0 must be a"),
        (lambda bad: fm.Lion(weight_decay=lambda k: bad), ValueError, "weight_decay at step 0"),
    ],
)
def test_wrong_values_of_schedules_are_refused(build, error, message):
    net = fm.MLP.from_sizes([4, 2], seed=0)
    optimizer, before = build(-1), net.get_parameters()
    with pytest.raises(error, match=message):
        optimizer.prepare(net.parameters, 5)
    with pytest.raises(error, match=message):  # the first call has 1 step, the next have more
        net.fit(np.tile(X, (9, 1)), np.tile(Y, (9, 1)), "mse", optimizer, batch_size=1, verbose=0)
    assert optimizer.step_count <= 3
    assert np.array_equal(net.get_parameters(), before) == (optimizer.step_count == 0)


def test_a_refused_step_leaves_the_optimizer_free():
    first, second = (fm.MLP.from_sizes([4, 2], seed=seed) for seed in (0, 1))
    for train in (first.train_step, first.fit):
        optimizer = fm.Adam(lambda k: -1)
        with pytest.raises(ValueError, match="learning_rate at step 0"):
            train(X, Y, "mse", optimizer=optimizer)
        assert optimizer.state == {}
        optimizer.learning_rate = 0.1
        second.train_step(X, Y, "mse", optimizer=optimizer)
        assert optimizer.step_count == 1


def test_a_refused_step_keeps_the_state():
    net, optimizer = fm.MLP.from_sizes([4, 2], seed=0), fm.SGD(0.1, 0.9)
    net.train_step(X, Y, "mse", optimizer=optimizer)
    velocity = optimizer.state["velocity"].to_vector()
    optimizer.momentum_style, optimizer.learning_rate = "ema", lambda k: -1
    with pytest.raises(ValueError, match="learning_rate at step 1"):
        net.train_step(X, Y, "mse", optimizer=optimizer)
    np.testing.assert_array_equal(optimizer.state["velocity"].to_vector(), velocity)


def test_a_learning_rate_may_fall_to_0():
    net = fm.MLP.from_sizes([4, 2], seed=0)
    before = net.get_parameters()
    net.train_step(X, Y, "mse", optimizer=fm.Adam(lambda k: 0))
    np.testing.assert_array_equal(net.get_parameters(), before)


def test_defaults_are_those_of_the_papers():
    assert repr(fm.Adam()) == "Adam(learning_rate=0.001, beta1=0.9, beta2=0.999, eps=1e-08, " + (
        "weight_decay=0)"
    )
    assert repr(fm.SGD(0.1)) == "SGD(learning_rate=0.1, momentum=0, dampening=0, weight_decay=0)"


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
        (
            lambda: fm.SGD(0.1, 0.9, momentum_style="polyak"),
            ValueError,
            "momentum_style must be 'heavy_ball' or 'ema' or 'nesterov', got 'polyak'",
        ),
        (lambda: fm.SGD(0.1, 0.9, momentum_style=1), TypeError, "momentum_style must be"),
        (lambda: fm.SGD(0.1, dampening=0.5), ValueError, "with momentum=0 .*: set dampening=0"),
        (
            lambda: fm.SGD(0.1, 0.9, momentum_style="ema", dampening=0.5),
            ValueError,
            "dampening must be 0 unless there is momentum of the style 'heavy_ball'",
        ),
        (lambda: fm.AdamW(decoupled_weight_decay=False), ValueError, "must be True, got False"),
        (lambda: fm.Adam(decoupled_weight_decay=1), TypeError, "must be False or True, got 1"),
        (lambda: fm.Adam(clip_norm=0), ValueError, r"clip_norm must be a number in \(0, inf\)"),
        (lambda: fm.Adam(clip_value="1"), TypeError, "clip_value must be a number"),
        (lambda: fm.Adam(average=0.9), TypeError, "average must be a ParameterAverage or None"),
        (lambda: fm.ParameterAverage(1.0), ValueError, r"decay must be a number in \[0, 1\)"),
        (lambda: fm.ParameterAverage(start=-1), ValueError, "start must be"),
        (lambda: fm.RMSprop(momentum=1), ValueError, r"momentum must be a number in \[0, 1\)"),
        (lambda: fm.Adagrad(initial_accumulator_value=-1), ValueError, "initial_accumulator_value"),
        (
            lambda: fm.Adagrad(initial_accumulator_value=lambda k: 0.1),
            TypeError,
            r"initial_accumulator_value must be a number in \[0, inf\), got <function",
        ),
        (
            lambda: fm.SGD(fm.schedules.Cosine),
            TypeError,
            r"learning_rate must be a number in .* or a function of the step, got the class Cosine",
        ),
        (
            lambda: setattr(fm.Adam(), "lr", 1e-5),
            AttributeError,
            "Adam has the hyperparameters .*learning_rate, beta1, .* got 'lr'",
        ),
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


EVERY = [
    fm.SGD(0.05),
    fm.SGD(0.05, 0.5, average=fm.ParameterAverage(0.9)),
    fm.SGD(falling, rising, momentum_style="ema", clip_norm=0.5),
    fm.SGD(falling, rising, momentum_style="nesterov", clip_value=0.1),
    fm.Adagrad(initial_accumulator_value=0.1),
    fm.RMSprop(),
    fm.RMSprop(momentum=0.5),
    fm.RMSprop(centered=True),
    fm.Adam(beta1=rising),
    fm.AdamW(falling, average=fm.ParameterAverage(start=2)),
    fm.NAdam(momentum_decay=rising),
    fm.Adamax(weight_decay=0.1, decoupled_weight_decay=True),
    fm.Lion(weight_decay=0.1),
]

every_optimizer = pytest.mark.parametrize(
    "optimizer", EVERY, ids=lambda optimizer: re.sub(" at 0x[0-9a-f]+", "", repr(optimizer))
)


@every_optimizer
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies_start_afresh(duplicate, optimizer):
    optimizer = copy.deepcopy(optimizer)
    fm.MLP.from_sizes([4, 2], seed=0).train_step(X, Y, "mse", optimizer=optimizer)
    other = duplicate(optimizer)
    assert repr(other) == repr(optimizer)
    assert (optimizer.step_count, other.step_count) == (1, 0)
    assert other.state == {}
    fm.MLP.from_sizes([4, 2], seed=1).train_step(X, Y, "mse", optimizer=other)


def test_a_representation_builds_the_same():
    for optimizer in EVERY:
        if "<function" not in repr(optimizer):
            code = repr(optimizer).replace("ParameterAverage", "fm.ParameterAverage")
            assert repr(eval(f"fm.{code}")) == repr(optimizer)
    assert repr(fm.SGD(0.1, 0.9, momentum_style="ema", clip_norm=2)) == (
        "SGD(learning_rate=0.1, momentum=0.9, dampening=0, weight_decay=0, clip_norm=2, "
        "momentum_style='ema')"
    )
    assert "learning_rate=<function falling" in repr(fm.Adam(falling))


@every_optimizer
def test_a_resumed_training_has_the_same_bits(backend, optimizer, tmp_path):
    def train(net, optimizer, epochs, generator):
        options = {"epochs": epochs, "batch_size": 5, "verbose": 0, "seed": generator}
        net.fit(X, Y, "mse", optimizer, **options)

    whole, net = (fm.MLP.from_sizes([4, 17, 2], seed=0) for _ in range(2))
    with fm.use_backend(backend):
        expected = copy.deepcopy(optimizer)
        train(whole, expected, 4, np.random.default_rng(0))
        first, generator = copy.deepcopy(optimizer), np.random.default_rng(0)
        train(net, first, 1, generator)
        np.savez(tmp_path / "state.npz", **first.state_dict())
        net.save(tmp_path / "net")
        net, second = fm.load(tmp_path / "net"), copy.deepcopy(optimizer)
        with np.load(tmp_path / "state.npz") as state:
            second.load_state_dict(state, net)
        assert second.step_count == 3
        train(net, second, 3, generator)
    np.testing.assert_array_equal(net.get_parameters(), whole.get_parameters())
    states = expected.state_dict(), second.state_dict()
    assert list(states[0]) == list(states[1])
    for name, value in states[0].items():
        np.testing.assert_array_equal(states[1][name], value)


def test_state_is_seen_by_layer():
    net = fm.MLP.from_sizes([4, 3, 2], seed=0)
    optimizer = fm.Adam()
    assert optimizer.state == {}
    net.train_step(X, Y, "mse", optimizer=optimizer)
    assert list(optimizer.state) == ["first_moment", "second_moment"]
    _, grad = fm.MLP.from_sizes([4, 3, 2], seed=0).value_and_grad(X, Y, "mse")
    moment = optimizer.state["first_moment"]
    for parts, slopes in [(moment.weights, grad.weights), (moment.biases, grad.biases)]:
        for part, slope in zip(parts, slopes, strict=True):
            np.testing.assert_allclose(part, 0.1 * slope, rtol=1e-5)
    moment.weights[0][...] = 0
    assert not optimizer.state["first_moment"].weights[0].any()


def test_the_state_of_another_rule_or_network_is_refused():
    net = fm.MLP.from_sizes([4, 2], seed=0)
    adam, sgd, bigger = fm.Adam(), fm.SGD(0.1, 0.9), fm.MLP.from_sizes([5, 2], seed=0)
    net.train_step(X, Y, "mse", optimizer=adam)
    net.train_step(X, Y, "mse", optimizer=sgd)
    before = sgd.state_dict()
    with pytest.raises(ValueError, match=r"state must hold step_count, velocity for SGD.*got step"):
        sgd.load_state_dict(adam.state_dict(), net)
    with pytest.raises(ValueError, match=r"state\['first_moment'\] must have shape \(12,\)"):
        fm.Adam().load_state_dict(adam.state_dict(), bigger)
    wrong = adam.state_dict() | {"product_of_beta1": 2.0}
    with pytest.raises(ValueError, match="product_of_beta1"):
        adam.load_state_dict(wrong, net)
    with pytest.raises(ValueError, match="step_count"):
        sgd.load_state_dict(before | {"step_count": -1}, net)
    assert (adam.step_count, sgd.step_count) == (1, 1)
    np.testing.assert_array_equal(sgd.state["velocity"].to_vector(), before["velocity"])
    sgd.load_state_dict(before, net)


def test_another_rule_starts_its_own_state():
    net = fm.MLP.from_sizes([4, 2], dtype="float64", seed=0)
    optimizer = fm.SGD(0.1, 0.9)
    net.train_step(X, Y, "mse", optimizer=optimizer)
    optimizer.momentum_style = "ema"
    theta, (_, grad) = net.get_parameters(), net.value_and_grad(X, Y, "mse")
    net.train_step(X, Y, "mse", optimizer=optimizer)
    expected = theta - 0.1 * (1 - 0.9) * grad.to_vector()
    np.testing.assert_allclose(net.get_parameters(), expected, rtol=1e-12)


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
    together = optimizer.coefficients(4, optimizer.row)
    for row in together:
        np.testing.assert_array_equal(optimizer.coefficients(1, optimizer.row)[0], row)
        optimizer.advance(1)


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


def test_a_schedule_object_gives_what_its_function_gives():
    schedule = fm.schedules.Cosine(0.1, 12)
    nets = [fm.MLP.from_sizes([4, 2], dtype="float64", seed=0) for _ in range(2)]
    for net, rate in zip(nets, (schedule, lambda k: schedule(k)), strict=True):
        net.fit(X, Y, "mse", fm.Adam(rate, beta1=rate), epochs=4, batch_size=5, seed=0, verbose=0)
    np.testing.assert_array_equal(*(net.get_parameters() for net in nets))


@pytest.mark.parametrize(("low", "high", "step"), [(0.5, 1.5, 3), (1.5, 0.5, 0)])
def test_wrong_values_of_schedule_objects_are_refused(low, high, step):
    optimizer = fm.SGD(0.1, fm.schedules.Polynomial(low, 3, final=high))
    with pytest.raises(ValueError, match=rf"momentum at step {step} must be a number .* got 1.5"):
        optimizer.prepare(fm.MLP.from_sizes([4, 2], seed=0).parameters, 4)

"""Full-batch algorithms: where they go, why they end, and what they count."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest

import fastmlp as fm

N_SAMPLES, N_IN, N_OUT = 40, 5, 3

RNG = np.random.default_rng(4)
X = RNG.normal(size=(N_SAMPLES, N_IN)) * [1, 2, 0.5, 1, 3] + 0.3
Y = RNG.normal(size=(N_SAMPLES, N_OUT)) + X[:, :N_OUT]
LABELS = RNG.integers(N_OUT, size=N_SAMPLES)
WEIGHT = RNG.integers(0, 4, size=N_SAMPLES)

needs_scipy = pytest.mark.skipif(
    importlib.util.find_spec("scipy") is None, reason="L-BFGS is that of scipy"
)

#: Every way to minimise.
METHODS = [
    {"step": 0.05},
    {"step": "exact"},
    {"step": "backtracking"},
    {"step": "strong_wolfe"},
    pytest.param({"method": "lbfgs"}, marks=needs_scipy),
]
DESCENTS = [*METHODS[2:], {"step": 0.2}]


def linear_net(dtype="float64"):
    return fm.MLP([fm.Dense(N_IN, N_OUT)], dtype=dtype, seed=0)


def tanh_net():
    return fm.MLP([fm.Dense(N_IN, N_OUT, "tanh")], dtype="float64", seed=0)


def deep_net(dtype="float64"):
    return fm.MLP.from_sizes([N_IN, 8, N_OUT], activation="tanh", dtype=dtype, seed=0)


def augmented(x):
    return np.c_[x, np.ones(len(x))]


def least_squares(weight):
    """Return W and b side by side, from the normal equations."""
    a = augmented(X) * np.sqrt(weight)[:, None]
    return np.linalg.lstsq(a, Y * np.sqrt(weight)[:, None], rcond=None)[0].T


@pytest.mark.parametrize("options", METHODS)
@pytest.mark.parametrize("loss", ["quadratic", "mse"])
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_linear_regression_of_several_outputs_is_solved(options, loss, weight):
    net = linear_net()
    result = fm.minimize(
        net, X, Y, loss, sample_weight=weight, tolerance=1e-6, max_iterations=5000, **options
    )
    assert result.converged, result
    assert result.gradient_norm[-1] < 1e-6 <= min(result.gradient_norm[:-1])
    solution = least_squares(np.ones(N_SAMPLES) if weight is None else weight)
    found = np.c_[net.weights[0], net.biases[0]]
    # ‖θ − θ*‖ ≤ ‖∇f‖/μ, and the smallest curvature μ is above 0.02 for both losses.
    assert np.linalg.norm(found - solution) < 1e-6 / 0.02


@pytest.mark.parametrize("options", DESCENTS)
def test_a_small_gradient_is_what_the_network_has(options):
    net = deep_net()
    result = fm.minimize(net, X, LABELS, tolerance=1e-2, max_iterations=5000, **options)
    value, grad = net.value_and_grad(X, LABELS)
    assert result.reason == "gradient"
    assert value == pytest.approx(result.loss[-1], rel=1e-12)
    assert np.linalg.norm(grad.to_vector()) == pytest.approx(result.gradient_norm[-1], rel=1e-9)
    assert result.gradient_norm[-1] < 1e-2 <= min(result.gradient_norm[:-1])


def test_a_constant_step_is_the_recurrence():
    net, by_hand = deep_net(), deep_net()
    result = fm.minimize(net, X, LABELS, step=0.3, max_iterations=7)
    for iteration in range(8):
        value, grad = by_hand.value_and_grad(X, LABELS)
        assert result.loss[iteration] == pytest.approx(value, rel=1e-12)
        norm = np.linalg.norm(grad.to_vector())
        assert result.gradient_norm[iteration] == pytest.approx(norm, rel=1e-12)
        if iteration < 7:
            by_hand.set_parameters(by_hand.get_parameters() - 0.3 * grad.to_vector())
    np.testing.assert_allclose(net.get_parameters(), by_hand.get_parameters(), rtol=1e-12)
    assert (result.reason, result.n_iterations) == ("max_iterations", 7)
    assert (result.n_loss_evaluations, result.n_gradient_evaluations) == (8, 8)


@pytest.mark.parametrize(("loss", "factor"), [("quadratic", 1), ("mse", 2 / N_OUT)])
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_an_exact_step_is_the_minimum_along_the_gradient(loss, factor, weight):
    net = linear_net()
    theta, grad = net.get_parameters(), net.value_and_grad(X, Y, loss, weight)[1]
    fm.minimize(net, X, Y, loss, sample_weight=weight, step="exact", max_iterations=1)
    w = np.ones(N_SAMPLES) if weight is None else weight
    hessian = factor * (augmented(X) * w[:, None]).T @ augmented(X) / w.sum()
    rows = np.c_[grad.weights[0], grad.biases[0]]
    step = (rows**2).sum() / np.einsum("oi,ij,oj", rows, hessian, rows)
    expected = theta - step * grad.to_vector()
    np.testing.assert_allclose(net.get_parameters(), expected, rtol=1e-10)


def test_backtracking_halves_and_doubles():
    f, net = linear_net(), linear_net()
    result = fm.minimize(net, X, Y, "quadratic", step="backtracking", max_iterations=6)
    step, n_trials = 0.5, 0
    for _ in range(6):
        theta, (value, grad) = f.get_parameters(), f.value_and_grad(X, Y, "quadratic")
        step *= 4
        while True:
            step /= 2
            n_trials += 1
            f.set_parameters(theta - step * grad.to_vector())
            decrease = 1e-4 * step * np.sum(grad.to_vector() ** 2)
            if f.loss(X, Y, "quadratic") <= value - decrease:
                break
    np.testing.assert_allclose(net.get_parameters(), f.get_parameters(), rtol=1e-10)
    assert result.n_loss_evaluations == n_trials + 7
    assert result.n_gradient_evaluations == 7


@pytest.mark.parametrize("options", DESCENTS[:-1])
def test_line_searches_go_down_in_every_iteration(options):
    result = fm.minimize(deep_net(), X, LABELS, max_iterations=50, **options)
    assert (np.diff(result.loss) < 0).all()


@pytest.mark.parametrize("options", METHODS)
def test_evaluations_are_counted_and_none_is_made_twice(options, monkeypatch):
    seen = {"loss": [], "value_and_grad": []}

    def recorded(name, method):
        def call(self, *arguments, **keywords):
            seen[name].append(tuple(self.get_parameters()))
            return method(self, *arguments, **keywords)

        return call

    for name in seen:
        monkeypatch.setattr(fm.MLP, name, recorded(name, getattr(fm.MLP, name)))
    result = fm.minimize(linear_net(), X, Y, "quadratic", max_iterations=20, **options)
    n_gradients = len(seen["value_and_grad"])
    assert result.n_iterations == 20 or result.converged
    assert result.n_gradient_evaluations == n_gradients > result.n_iterations
    assert result.n_loss_evaluations == n_gradients + len(seen["loss"])
    assert len(set(seen["value_and_grad"])) == n_gradients


@pytest.mark.parametrize("step", ["backtracking", "strong_wolfe"])
def test_a_line_search_starts_from_the_last_step(step):
    # Curvatures of 1e6 and more want steps of 1e-6: twenty halvings, but once only.
    settings = {"step": step, "tolerance": 1e-12, "max_iterations": 50}
    result = fm.minimize(linear_net(), 1e3 * X, Y, "quadratic", **settings)
    assert result.n_iterations == 50
    assert result.n_loss_evaluations < 6 * 50


@needs_scipy
def test_lbfgs_takes_scipy_s_steps():
    from scipy import optimize

    f = deep_net()
    thetas = []

    def function(theta):
        f.set_parameters(theta)
        value, grad = f.value_and_grad(X, LABELS)
        return value, grad.to_vector()

    start = deep_net().get_parameters()
    options = {"jac": True, "method": "L-BFGS-B", "options": {"maxiter": 12}}
    optimize.minimize(function, start, callback=lambda theta: thetas.append(theta), **options)
    net = deep_net()
    result = fm.minimize(net, X, LABELS, method="lbfgs", max_iterations=12)
    assert result.n_iterations == len(thetas) == 12
    np.testing.assert_allclose(net.get_parameters(), thetas[-1], rtol=1e-10)


# --- How it ends ----------------------------------------------------------------------------


@pytest.mark.parametrize("options", METHODS)
def test_a_start_with_a_small_gradient_is_the_end(options):
    net = linear_net()
    before = net.get_parameters()
    result = fm.minimize(net, X, Y, "quadratic", tolerance=1e6, **options)
    assert (result.reason, result.n_iterations, result.converged) == ("gradient", 0, True)
    assert (result.n_loss_evaluations, result.n_gradient_evaluations) == (1, 1)
    np.testing.assert_array_equal(net.get_parameters(), before)


@pytest.mark.parametrize("options", METHODS[2:])
def test_rounding_ends_a_line_search(options):
    net = linear_net()
    result = fm.minimize(net, X, Y, "quadratic", tolerance=1e-300, **options)
    assert (result.reason, result.converged) == ("line_search", False)
    assert result.n_iterations < 1000
    found = np.c_[net.weights[0], net.biases[0]]
    np.testing.assert_allclose(found, least_squares(np.ones(N_SAMPLES)), rtol=1e-5)


@pytest.mark.filterwarnings("error")
def test_divergence_is_reported_and_leaves_the_best_parameters():
    net = linear_net()
    before = net.get_parameters()
    result = fm.minimize(net, X, Y, "quadratic", step=10.0)
    assert result.reason == "diverged"
    assert not np.isfinite(result.gradient_norm[-1])
    assert result.n_iterations < 200
    np.testing.assert_array_equal(net.get_parameters(), before)


def test_a_point_without_slope_is_an_end_even_if_it_is_worse():
    net = fm.MLP([fm.Dense(1, 1, "relu")], dtype="float64", seed=0)
    net.set_parameters([0, 1.5])
    result = fm.minimize(net, [[1]], [[1]], "quadratic", step=10)
    assert result.loss == (0.125, 0.5)
    assert (result.reason, result.gradient_norm[-1]) == ("gradient", 0)
    np.testing.assert_array_equal(net.get_parameters(), [-5, -3.5])


def test_the_best_parameters_are_left_if_the_last_are_worse():
    result = fm.minimize(net := deep_net(), X, LABELS, step=4.0, max_iterations=9)
    assert net.loss(X, LABELS) == pytest.approx(min(result.loss), rel=1e-12)
    assert min(result.loss) < min(result.loss[0], result.loss[-1])


@pytest.mark.parametrize("options", DESCENTS)
def test_ctrl_c_leaves_the_best_parameters_so_far(options, monkeypatch):
    net, seen = deep_net(), []
    gradient = fm.MLP.value_and_grad

    def interrupted(self, *arguments, **keywords):
        if len(seen) == 6:
            raise KeyboardInterrupt
        value, grad = gradient(self, *arguments, **keywords)
        seen.append(value)
        return value, grad

    monkeypatch.setattr(fm.MLP, "value_and_grad", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fm.minimize(net, X, LABELS, **options)
    assert net.loss(X, LABELS) <= min(seen) * (1 + 1e-12) < seen[0]


def test_the_summary_says_what_happened():
    result = fm.minimize(linear_net(), X, Y, "quadratic", tolerance=1e-6)
    lines = repr(result).splitlines()
    assert lines[0].startswith("Minimization: converged after ")
    assert lines[0].endswith("because the norm of the gradient fell below the tolerance")
    assert f"{result.n_loss_evaluations:,} of the loss" in lines[3]
    worse = fm.minimize(linear_net(), X, Y, "quadratic", max_iterations=1)
    assert repr(worse).startswith("Minimization: not converged after 1 iterations")
    assert worse.seconds > 0


# --- What comes in --------------------------------------------------------------------------


@pytest.mark.parametrize("options", DESCENTS)
def test_a_float32_network_gets_the_rounded_result(options):
    net, precise = deep_net("float32"), deep_net("float32").astype("float64")
    results = [
        fm.minimize(each, X, LABELS, tolerance=1e-2, max_iterations=3000, **options)
        for each in (net, precise)
    ]
    assert results[0].converged
    assert results[0].loss == results[1].loss
    expected = precise.get_parameters().astype(np.float32)
    np.testing.assert_array_equal(net.get_parameters(), expected)


@pytest.mark.parametrize("options", DESCENTS)
def test_weights_are_repeated_samples(options):
    net, repeated = deep_net(), deep_net()
    settings = {"max_iterations": 10, **options}
    result = fm.minimize(net, X, LABELS, sample_weight=WEIGHT, **settings)
    rows = np.repeat(np.arange(N_SAMPLES), WEIGHT)
    expected = fm.minimize(repeated, X[rows], LABELS[rows], **settings)
    np.testing.assert_allclose(result.loss, expected.loss, rtol=1e-9)
    np.testing.assert_allclose(net.get_parameters(), repeated.get_parameters(), rtol=1e-6)


BAD_X = np.where(np.arange(N_SAMPLES * N_IN).reshape(X.shape) == 7, np.nan, X)


@pytest.mark.parametrize(
    ("net", "loss", "options", "error", "message"),
    [
        (deep_net, "quadratic", {"step": "exact"}, ValueError, "needs a loss that is quadratic"),
        (tanh_net, "quadratic", {"step": "exact"}, ValueError, "activation 'identity'"),
        (linear_net, "cross_entropy", {"step": "exact"}, ValueError, "use 'backtracking' or"),
        (deep_net, "quadratic", {"step": "newton"}, ValueError, "step must be one of 'exact', 'b"),
        (deep_net, "quadratic", {"step": 0}, ValueError, "step must be a number in .0, inf"),
        (deep_net, "quadratic", {"step": [1]}, TypeError, "step must be a number in .0, inf"),
        (deep_net, "quadratic", {"method": "newton"}, ValueError, "method must be one of 'gradi"),
        (deep_net, "quadratic", {"method": "lbfgs", "step": 1}, ValueError, "step must be left"),
        (deep_net, "quadratic", {"tolerance": 0}, ValueError, "tolerance must be a number in"),
        (deep_net, "quadratic", {"max_iterations": 0}, ValueError, "max_iterations must be an int"),
        (deep_net, "quadratic", {"sample_weight": [1]}, ValueError, "sample_weight must have sh"),
        (deep_net, "quadratic", {"X": BAD_X}, ValueError, r"X must be finite .* X\[1, 2\] is nan"),
        (deep_net, "quadratic", {"y": np.inf * Y}, ValueError, "y must be finite"),
        (deep_net, "square", {}, ValueError, "loss must be one of"),
    ],
)
def test_wrong_input_is_refused_and_changes_nothing(net, loss, options, error, message):
    net = net()
    before = net.get_parameters()
    data = {"X": X, "y": LABELS if loss == "cross_entropy" else Y}
    with pytest.raises(error, match=message):
        fm.minimize(net, **(data | {"loss": loss} | options))
    np.testing.assert_array_equal(net.get_parameters(), before)


def test_without_scipy_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(
        ImportError, match=r"method 'lbfgs' needs scipy: `pip install \"fastmlp\[scipy\]\"`"
    ):
        fm.minimize(deep_net(), X, LABELS, method="lbfgs")

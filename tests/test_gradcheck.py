"""The gradient check: finds right gradients right and wrong ones wrong, on every backend.

Gradients made wrong on purpose, equation by equation, are in ``test_gradient_mutants.py``.
"""

from __future__ import annotations

import numpy as np
import pytest

import fastmlp as fm
from fastmlp.activations import ACTIVATIONS
from fastmlp.kernels import reference
from fastmlp.losses import LOSSES

#: Each loss by name, and those with parameters with some that are not the usual ones.
OBJECTIVES = (
    *LOSSES.values(),
    fm.Huber(delta=0.6),
    fm.CrossEntropy(label_smoothing=0.1, class_weight=[1, 2, 0.5]),
    fm.CrossEntropy(class_weight="balanced"),
    fm.BinaryCrossEntropy(pos_weight=[0.5, 1, 3]),
    fm.Pinball(quantiles=(0.1, 0.5, 0.9)),
)

#: Activations that hidden layers can have, also by their other names.
HIDDEN = [name for name, row in ACTIVATIONS.items() if row.elementwise]

SIZES = (4, 5, 6, 5, 3)
LABELS = np.array([0, 1, 2, 2, 1])

#: Units of piecewise linear activations stay this far from their kink, for all samples.
MARGIN = 1e-3


def draw(activation, loss, depth, as_labels):
    """Return a network with the activation in its hidden layers, and samples off kinks."""
    objective = fm.losses.get(loss)
    n_out = 4 if objective.name == "gaussian_nll" else 3
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        net = fm.MLP.from_sizes([*SIZES[:depth], n_out], activation, dtype="float64", seed=rng)
        for bias in net.biases:
            bias[...] = rng.normal(size=bias.shape)
        x = rng.normal(size=(5, 4))
        target = LABELS if as_labels else draw_target(rng, objective, n_out)
        smallest = smallest_pre_activation(net, x), distance_of_loss(net(x), target, objective)
        if min(smallest) > MARGIN:
            return net, x, target
    raise AssertionError("no draw stays off the kinks")


def draw_target(rng, objective, n_out):
    """Return 5 targets of the kind that a loss takes."""
    kind = objective.row.target
    if "probabilities" in kind:
        return rng.dirichlet(np.ones(3), 5)
    if "signs" in kind:
        return rng.choice([-1, 1], size=(5, 3))
    if kind == "counts":
        return rng.poisson(2, size=(5, 3))
    return rng.normal(size=(5, objective.n_targets(n_out)))


def distance_of_loss(output, target, objective):
    """Return the least distance to a kink of a loss or of its derivative."""
    distances = np.ones(1)
    if objective.name == "huber":
        distances = np.abs(output - target) - objective.delta
    elif objective.name in ("mae", "pinball"):
        distances = output - target
    elif "hinge" in objective.name and target.ndim == 1:
        rows = np.arange(5)
        distances = 1 + output - output[rows, target][:, None]
        distances[rows, target] = 1
    elif "hinge" in objective.name:
        distances = 1 - target * output
    return np.abs(distances).min()


def smallest_pre_activation(net, x):
    """Return min |z| of the hidden layers."""
    smallest = np.inf
    for layer, weight, bias in zip(net.layers[:-1], net.weights[:-1], net.biases[:-1], strict=True):
        z = x @ weight.T + bias
        smallest = min(smallest, np.abs(z).min())
        x = np.empty_like(z)
        reference.activation_forward(z, layer.activation_row.code, layer.alpha or 0.0, x)
    return smallest


@pytest.mark.parametrize("loss", OBJECTIVES, ids=repr)
@pytest.mark.parametrize("activation", HIDDEN)
def test_backpropagation_is_right(backend, activation, loss):
    check_backpropagation(backend, activation, loss, depth=2)


def check_backpropagation(backend, activation, loss, depth):
    with fm.use_backend(backend):
        for as_labels in (False, True)[: 1 + ("labels" in loss.row.target)]:
            net, x, y = draw(activation, loss, depth, as_labels)
            fm.check_gradient(net, x, y, loss=loss).assert_ok()
            fm.check_gradient(net, x[0], y[0], loss=loss).assert_ok()
            check = fm.check_gradient(net, x, y, loss, sample_weight=[1, 0, 2, 0.5, 3])
            check.assert_ok()
            assert (check.n_compared, check.n_kinks) == (net.n_parameters + x.size, 0)


@pytest.mark.parametrize("depth", [1, 3, 4])
@pytest.mark.parametrize("activation", HIDDEN)
def test_backpropagation_is_right_at_every_depth(backend, depth, activation):
    check_backpropagation(backend, activation, LOSSES["cross_entropy"], depth)


@pytest.mark.parametrize("rank", [0, -1], ids=["smallest entry", "largest entry"])
def test_the_formula_of_the_error(monkeypatch, rank):
    net, x, y = draw("tanh", "quadratic", 2, as_labels=False)
    estimate = net.value_and_grad(x, y, "quadratic")[1].to_vector()
    root_mean_square = np.sqrt(np.mean(estimate**2))
    index = np.argsort(np.abs(estimate))[rank]
    wrong = fm.parameters.Gradient(net.parameters.layout)
    wrong.set_vector(estimate + 0.01 * (np.arange(len(estimate)) == index))
    monkeypatch.setattr(fm.MLP, "value_and_grad", lambda *_: (0.0, wrong))
    check = fm.check_gradient(net, x, y, "quadratic", inputs=False)
    expected = 0.01 / max(abs(estimate[index]), root_mean_square)
    assert check.max_relative_error == pytest.approx(expected)
    assert sum(part.max_relative_error > 1e-3 for part in check.parts) == 1
    worst = check.worst
    assert worst.analytic - worst.numeric == pytest.approx(0.01)


def test_a_wrong_entry_is_found(monkeypatch):
    right = fm.MLP.value_and_grad

    def wrong(self, *arguments):
        value, grad = right(self, *arguments)
        grad.weights[1][2, 3] += 0.01
        return value, grad

    monkeypatch.setattr(fm.MLP, "value_and_grad", wrong)
    net, x, y = draw("tanh", "cross_entropy", 2, as_labels=True)
    check = fm.check_gradient(net, x, y)
    assert not check.ok()
    assert (check.worst.layer, check.worst.kind, check.worst.index) == (1, "weight", (2, 3))
    assert check.max_relative_error > 1e-3


def test_a_wrong_bias_and_nan_are_found(monkeypatch):
    right = fm.MLP.value_and_grad

    def wrong(self, *arguments):
        value, grad = right(self, *arguments)
        grad.biases[0][1] = np.nan
        return value, grad

    monkeypatch.setattr(fm.MLP, "value_and_grad", wrong)
    net, x, y = draw("tanh", "cross_entropy", 2, as_labels=True)
    check = fm.check_gradient(net, x, y, tolerance=1e300)
    assert not check.ok()
    assert (check.worst.layer, check.worst.kind, check.worst.index) == (0, "bias", (1,))


def test_two_zero_gradients_agree():
    net = fm.MLP.from_sizes([2, 3, 1], dtype="float64", seed=0)
    net.set_parameters(np.zeros(net.n_parameters))
    assert fm.check_gradient(net, np.ones((3, 2)), np.zeros(3), "mse").max_relative_error == 0


def test_a_float32_network_is_checked_in_float64():
    net = fm.MLP.from_sizes([4, 5, 3], activation="tanh", seed=0)
    before = net.get_parameters()
    x = np.random.default_rng(0).normal(size=(5, 4))
    assert fm.check_gradient(net, x, LABELS).ok()
    np.testing.assert_array_equal(net.get_parameters(), before)


@pytest.mark.parametrize("method", ["naive", "fair"])
@pytest.mark.parametrize(("scheme", "order"), [("central", 2), ("forward", 1)])
def test_the_error_falls_with_the_step_as_the_formula_says(backend, scheme, order, method):
    net, x, y = draw("tanh", "quadratic", 2, as_labels=False)
    exact = net.value_and_grad(x, y, "quadratic")[1].to_vector()
    with fm.use_backend(backend):
        errors = [
            np.abs(
                fm.finite_difference_gradient(
                    net, x, y, "quadratic", scheme=scheme, step=step, method=method
                ).to_vector()
                - exact
            ).max()
            for step in (1e-2, 1e-3)
        ]
    assert errors[0] / errors[1] == pytest.approx(10**order, rel=0.1)


def test_default_steps_suit_the_dtype(dtype):
    net, x, y = draw("tanh", "cross_entropy", 3, as_labels=True)
    exact = net.value_and_grad(x, y)[1].to_vector()
    net = net.astype(dtype)
    for scheme, power in (("central", 2 / 3), ("forward", 1 / 2)):
        estimate = fm.finite_difference_gradient(net, x, y, scheme=scheme).to_vector()
        assert estimate.dtype == dtype
        assert np.abs(estimate - exact).max() < 10 * np.finfo(dtype).eps ** power


@pytest.mark.parametrize("loss", OBJECTIVES, ids=repr)
@pytest.mark.parametrize("activation", HIDDEN)
def test_complex_steps_are_exact(backend, activation, loss):
    for as_labels in (False, True)[: 1 + ("labels" in loss.row.target)]:
        net, x, y = draw(activation, loss, 3, as_labels)
        problem = x, y, loss, [1, 0, 2, 0.5, 3]
        exact = fm.finite_difference_gradient(net, *problem, scheme="complex").to_vector()
        with fm.use_backend(backend):
            found = net.value_and_grad(*problem)[1].to_vector()
        scale = np.maximum(np.abs(exact), np.sqrt(np.mean(exact**2)))
        assert (np.abs(found - exact) / scale).max() < 1e-14


def test_complex_steps_of_any_size_above_0_and_below_some():
    net, x, y = draw("gelu", "cross_entropy", 3, as_labels=True)
    exact = net.value_and_grad(x, y)[1].to_vector()
    errors = [
        np.abs(estimate.to_vector() - exact).max()
        for estimate in (
            fm.finite_difference_gradient(net, x, y, scheme="complex", step=step)
            for step in (1e-2, 1e-3, 1e-9, 1e-100)
        )
    ]
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.1)
    assert max(errors[2:]) < 1e-15


def test_complex_steps_take_float64_and_the_entries_asked_for():
    net, x, y = draw("tanh", "mse", 3, as_labels=False)
    net, x, y = net.astype("float32"), x.astype("float32"), y.astype("float32")
    exact = net.astype("float64").value_and_grad(x, y, "mse")[1].to_vector()
    grad = fm.finite_difference_gradient(net, x, y, "mse", scheme="complex", entries=[30, 2])
    found = grad.to_vector()
    assert found.dtype == np.float32
    assert np.isnan(np.delete(found, [2, 30])).all()
    np.testing.assert_allclose(found[[2, 30]], exact[[2, 30]], rtol=1e-7)


def test_complex_steps_at_a_kink_go_to_the_right(net_at_a_kink):
    grad = fm.finite_difference_gradient(net_at_a_kink, [1, 1], [1], "quadratic", scheme="complex")
    # L = ½ (2 relu(w·x) + 3 · 1.5 − 1)² with w·x = 0 increases with w and b by 3.5 · 2.
    np.testing.assert_allclose([*grad.weights[0][0], grad.biases[0][0]], 7, rtol=1e-15)


@pytest.mark.parametrize("method", ["naive", "fair"])
@pytest.mark.parametrize("scheme", ["central", "forward"])
def test_threads_change_no_bit_of_the_differences(backend, monkeypatch, scheme, method):
    net, x, y = draw("tanh", "cross_entropy", 3, as_labels=True)
    monkeypatch.setattr(fm.backends, "_threads", fm.backends.Threads(1))
    found = []
    for n_threads in (1, 2, 7):
        fm.set_num_threads(n_threads, work_per_thread=0)
        with fm.use_backend(backend):
            estimate = fm.finite_difference_gradient(net, x, y, scheme=scheme, method=method)
        found.append(estimate.to_vector().tobytes())
    assert found[0] == found[1] == found[2]


def test_only_some_entries_are_estimated(backend):
    net, x, y = draw("tanh", "cross_entropy", 3, as_labels=True)
    with fm.use_backend(backend):
        every = fm.finite_difference_gradient(net, x, y).to_vector()
        some = fm.finite_difference_gradient(net, x, y, entries=[7, 0, 30]).to_vector()
        none = fm.finite_difference_gradient(net, x, y, entries=[]).to_vector()
    np.testing.assert_array_equal(some[[0, 7, 30]], every[[0, 7, 30]])
    assert np.isnan(some).sum() == len(every) - 3
    assert np.isnan(none).all()


def test_an_error_in_a_thread_comes_out(monkeypatch, kernels, backend):
    def wrong(*_):
        raise RuntimeError("boom")

    net, x, y = draw("tanh", "cross_entropy", 3, as_labels=True)
    monkeypatch.setattr(fm.backends, "_threads", fm.backends.Threads(2, 0.0))
    monkeypatch.setattr(kernels, "network_difference_gradient", wrong)
    with fm.use_backend(backend), pytest.raises(RuntimeError, match="boom"):
        fm.finite_difference_gradient(net, x, y)


def test_finite_differences_leave_the_network_alone():
    net, x, y = draw("relu", "mse", 3, as_labels=False)
    before = net.parameters.arena.copy()
    net.parameters.arena.flags.writeable = False
    with fm.use_backend("numpy"):  # whose writes respect the flag
        assert fm.finite_difference_gradient(net, x, y, "mse").to_vector().any()
    np.testing.assert_array_equal(net.parameters.arena, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"scheme": "centre"},
            "scheme must be one of 'central', 'forward', 'complex', got 'centre'",
        ),
        ({"scheme": "complex", "step": -1e-20}, r"step must be a number in \(0, inf\), got -1e-20"),
        (
            {"scheme": "complex", "method": "fair"},
            "method must be 'naive' for scheme 'complex', got 'fair'",
        ),
        ({"step": 0}, r"step must be a number in \(0, inf\), got 0"),
        ({"entries": [3, 15]}, "entries must be from 0 to 14, got 15"),
        ({"entries": 3}, r"entries must have shape \(n,\), got \(\)"),
        ({"method": "fast"}, "method must be one of 'naive', 'fair', got 'fast'"),
    ],
)
def test_wrong_options_are_refused(options, message):
    net, x, y = draw("tanh", "mse", 1, as_labels=False)
    with pytest.raises(ValueError, match=message):
        fm.finite_difference_gradient(net, x, y, "mse", **options)


def test_it_prints_as_a_table():
    net, x, y = draw("tanh", "mse", 2, as_labels=False)
    check = fm.check_gradient(net, x, y, "mse")
    lines = str(check).splitlines()
    assert repr(check) == str(check)
    assert lines[0].startswith("Gradient check passed: largest relative error ")
    assert lines[0].endswith(f"tolerance 1e-07; {net.n_parameters + 20} entries compared")
    assert [line.split()[0] for line in lines[2:]] == [
        *("weights[0]", "biases[0]", "weights[1]", "biases[1]", "X")
    ]
    assert lines[2].split()[:6] == ["weights[0]", "5", "×", "4", "20", "0"]


def test_assert_ok_raises_the_table(monkeypatch):
    monkeypatch.setattr(fm.MLP, "input_gradient", lambda *_: np.ones((5, 4)))
    net, x, y = draw("tanh", "mse", 2, as_labels=False)
    with pytest.raises(AssertionError, match=r"^Gradient check failed: .* in X\[\d, \d\], "):
        fm.check_gradient(net, x, y, "mse").assert_ok()
    fm.check_gradient(net, x, y, "mse", inputs=False).assert_ok()


def test_a_choice_of_entries_is_compared():
    net, x, y = draw("tanh", "mse", 2, as_labels=False)
    checks = [
        fm.check_gradient(net, x, y, "mse", entries_per_part=4, seed=seed) for seed in (0, 0, 1)
    ]
    assert [part.n_compared for part in checks[0].parts] == [4, 4, 4, 3, 4]
    assert checks[0] == checks[1] != checks[2]


def test_large_inputs_need_another_step():
    net, x, y = draw("tanh", "quadratic", 2, as_labels=False)
    x *= 1000
    net.weights[0][...] /= 1000
    estimate = fm.finite_difference_gradient(net, x, y, "quadratic").to_vector()
    exact = net.value_and_grad(x, y, "quadratic")[1].to_vector()
    assert np.abs(estimate - exact).max() > 1e-7 * np.sqrt(np.mean(exact**2))
    fm.check_gradient(net, x, y, "quadratic").assert_ok()


@pytest.fixture
def net_at_a_kink():
    """Two ReLUs, one of which is at its kink for the sample [1, 1]; the output is their sum."""
    net = fm.MLP.from_sizes([2, 2, 1], "relu", dtype="float64", seed=0)
    net.weights[0][...] = [[1, -1], [0.5, 1]]
    net.weights[1][...] = [[2, 3]]
    return net


def test_the_slope_of_one_side_will_do_at_a_kink(backend, net_at_a_kink):
    with fm.use_backend(backend):
        check = fm.check_gradient(net_at_a_kink, [1, 1], [1], "quadratic")
    check.assert_ok()
    assert (check.n_compared, check.n_kinks) == (11, 0)


def test_what_is_the_slope_of_neither_side_is_set_aside(monkeypatch, net_at_a_kink):
    right = fm.MLP.value_and_grad

    def wrong(self, *arguments):
        value, grad = right(self, *arguments)
        grad.biases[0][0] = 1  # the slopes are 0 from the left and 7 from the right
        return value, grad

    # With σ'(0) = 1/2 for ReLUs, say: no derivative, but the average of both sides.
    monkeypatch.setattr(fm.MLP, "value_and_grad", wrong)
    check = fm.check_gradient(net_at_a_kink, [1, 1], [1], "quadratic")
    part = check.parts[1]
    assert (part.name, part.n_kinks, part.n_compared) == ("biases[0]", 1, 1)


def test_kinks_on_both_sides_are_set_aside(net_at_a_kink):
    net_at_a_kink.weights[0][...] = [[1, 1], [-1, -1]]
    check = fm.check_gradient(net_at_a_kink, [0, 0], [1], "quadratic")
    check.assert_ok()
    of_inputs = check.parts[-1]
    assert (of_inputs.kind, of_inputs.n_compared, of_inputs.n_kinks) == ("input", 0, 2)
    assert str(check).splitlines()[0].endswith(", 2 at kinks set aside")


def test_a_kink_nearby_is_stepped_around(net_at_a_kink):
    net_at_a_kink.biases[0][0] = 1e-6
    check = fm.check_gradient(net_at_a_kink, [1, 1], [1], "quadratic")
    check.assert_ok()
    assert check.n_kinks == 0


def put_output_at_kink(loss, net, x, y, distance):
    """Change a target or a bias so that an output of sample 0 is so far from a kink."""
    output = net(x)[0]
    if loss.name == "huber":
        y[0, 1] = output[1] - (loss.delta + distance)
    elif loss.name in ("mae", "pinball"):
        y[0, -1] = output[-1] - distance
    elif y.ndim == 1:
        net.biases[-1][0] += output[y[0]] - 1 + distance - output[0]
    else:
        net.biases[-1][1] += y[0, 1] * (1 + distance) - output[1]


@pytest.mark.parametrize("distance", [1e-4, 1e-5, -1e-6, 1e-7, -1e-9, 0])
@pytest.mark.parametrize(
    ("loss", "as_labels"),
    [
        ("mae", False),
        (fm.Huber(delta=0.6), False),
        (fm.Pinball(quantiles=(0.2, 0.5, 0.7)), False),
        *((name, as_labels) for name in ("hinge", "squared_hinge") for as_labels in (False, True)),
    ],
)
def test_an_output_near_a_kink_of_the_loss(loss, as_labels, distance):
    net, x, y = draw("tanh", loss, 2, as_labels)
    put_output_at_kink(fm.losses.get(loss), net, x, y, distance)
    check = fm.check_gradient(net, x, y, loss)
    check.assert_ok()
    # At its kink the pinball's derivative counts as 0, which is that of neither side.
    assert (check.n_kinks > 0) == (fm.losses.get(loss).name == "pinball" and distance == 0)


@pytest.mark.parametrize("distance", [1e-4, 1e-5, -1e-6, 1e-7, -1e-9, 0])
@pytest.mark.parametrize(
    ("activation", "kink"),
    [(name, kink) for name, row in ACTIVATIONS.items() for kink in row.kinks],
)
def test_a_pre_activation_near_a_kink(activation, kink, distance):
    net, x, y = draw(activation, "quadratic", 2, as_labels=False)
    net.biases[0][2] += kink + distance - (x[0] @ net.weights[0][2] + net.biases[0][2])
    fm.check_gradient(net, x, y, "quadratic").assert_ok()


def test_a_wrong_gradient_is_no_bend(monkeypatch):
    right = fm.MLP.value_and_grad

    def wrong(self, *arguments):
        value, grad = right(self, *arguments)
        grad.biases[-1][1] *= 1 + 1e-5
        return value, grad

    monkeypatch.setattr(fm.MLP, "value_and_grad", wrong)
    loss = fm.Huber(delta=0.6)
    net, x, y = draw("tanh", loss, 2, as_labels=False)
    put_output_at_kink(loss, net, x, y, 0)
    check = fm.check_gradient(net, x, y, loss)
    assert not check.ok()
    assert check.n_kinks == 0


@pytest.fixture(params=range(8), ids="seed {}".format)
def saturated(request):
    """Draw a network whose ∂L/∂x is so small that differences of L lose most of its digits."""
    net, x, y = draw("tanh", "squared_hinge", 3, as_labels=True)
    rng = np.random.default_rng(request.param)
    net.weights[0][...] = rng.normal(size=(5, 4))
    net.biases[0][...] = rng.uniform(9, 12, 5) * rng.choice([-1, 1], 5)
    assert 1e-9 < np.abs(net.input_gradient(x, y, "squared_hinge")).max() < 1e-2
    return net, x, y


def test_small_derivatives_are_no_errors(backend, saturated):
    with fm.use_backend(backend):
        check = fm.check_gradient(*saturated, "squared_hinge")
    check.assert_ok()
    assert check.n_kinks == 0


@pytest.mark.parametrize("factor", [1 + 1e-5, -1, 0])
def test_errors_in_small_derivatives_are_found(monkeypatch, saturated, factor):
    right = fm.MLP.input_gradient
    monkeypatch.setattr(fm.MLP, "input_gradient", lambda *args: factor * right(*args))
    check = fm.check_gradient(*saturated, "squared_hinge")
    assert not check.ok()
    assert (check.worst.kind, check.n_kinks) == ("input", 0)


def test_a_wrong_forward_pass_is_found(monkeypatch, kernels, backend):
    """Complex steps, which take the reference's, do not cover it up."""
    right = kernels.network_difference_gradient

    def wrong(*arguments):
        right(*arguments)
        arguments[-2][...] *= 1 + 1e-6

    monkeypatch.setattr(kernels, "network_difference_gradient", wrong)
    with fm.use_backend(backend):
        check = fm.check_gradient(*draw("tanh", "mse", 3, as_labels=False), "mse")
    assert not check.ok()
    assert check.max_relative_error == pytest.approx(1e-6, rel=0.1)


def test_an_error_beside_a_kink_or_a_steep_slope_is_found(monkeypatch, net_at_a_kink):
    net_at_a_kink.biases[0][0] = 1e-9
    steep = fm.MLP.from_sizes([2, 3], dtype="float64", seed=0)
    steep.biases[0][:] = 30  # L and its slope are of the order of exp(30)
    right = fm.MLP.value_and_grad

    def wrong(self, *arguments):
        value, grad = right(self, *arguments)
        grad.biases[0][0] *= 1.01
        return value, grad

    monkeypatch.setattr(fm.MLP, "value_and_grad", wrong)
    for net, y, loss in (net_at_a_kink, [1], "quadratic"), (steep, [1, 2, 3], "poisson"):
        check = fm.check_gradient(net, [1, 1], y, loss)
        assert not check.ok()
        assert (check.worst.name, check.n_kinks) == ("biases[0]", 0)


@pytest.mark.parametrize("seed", range(6))
def test_where_large_quotients_at_kinks_turn_out_small(seed):
    """Those that were small beside them are then judged by a smaller scale."""
    net = fm.MLP([fm.Dense(5, 2, activation="relu6")], dtype="float64", seed=seed)
    net.set_parameters(np.zeros(net.n_parameters))
    x = np.random.default_rng(seed).normal(size=5) * [1e-9, 1, 1, 1, 1]
    fm.check_gradient(net, x, [3, 0], "poisson").assert_ok()


def test_samples_of_weight_0_are_absent(backend):
    net, x, y = draw("tanh", "cross_entropy", 2, as_labels=True)
    weights = np.array([1, 0, 2, 0, 3])
    broken, present = x.copy(), weights > 0
    broken[~present] = np.nan
    with fm.use_backend(backend):
        expected = net.input_gradient(x[present], y[present], sample_weight=weights[present])
        grad = net.input_gradient(broken, y, sample_weight=weights)
        check = fm.check_gradient(net, broken, y, sample_weight=weights)
    np.testing.assert_array_equal(grad[present], expected)
    assert not grad[~present].any()
    check.assert_ok()


def test_a_wrong_gradient_is_no_kink(monkeypatch):
    right = fm.MLP.value_and_grad

    def wrong(self, *arguments):
        value, grad = right(self, *arguments)
        grad.arena *= 1 + 1e-6
        return value, grad

    monkeypatch.setattr(fm.MLP, "value_and_grad", wrong)
    net, x, y = draw("relu", "mse", 3, as_labels=False)
    check = fm.check_gradient(net, x, y, "mse")
    assert not check.ok()
    assert check.n_kinks == 0
    assert check.max_relative_error == pytest.approx(1e-6, rel=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"entries_per_part": 0}, "entries_per_part must be an integer of at least 1, got 0"),
        ({"tolerance": 0}, r"tolerance must be a number in \(0, inf\), got 0"),
    ],
)
def test_wrong_options_of_the_check_are_refused(options, message):
    net, x, y = draw("tanh", "mse", 1, as_labels=False)
    with pytest.raises(ValueError, match=message):
        fm.check_gradient(net, x, y, "mse", **options)


@pytest.mark.parametrize("scheme", ["central", "forward"])
def test_a_step_that_rounding_swallows_is_refused(scheme):
    net = fm.MLP.from_sizes([2, 3], seed=0)
    net.biases[0][1] = 8
    x, options = np.ones((1, 2)), {"scheme": scheme, "step": 1e-7}
    with pytest.raises(ValueError, match=r"step must move .* float32, but 1e-07 .*, which is 8$"):
        fm.finite_difference_gradient(net, x, [0], **options)
    estimate = fm.finite_difference_gradient(net.astype("float64"), x, [0], **options)
    assert np.isfinite(estimate.to_vector()).all()


# --- Layers that are not dense ------------------------------------------------------------


@pytest.fixture
def of_every_kind(rng):
    """Draw a network of all kinds of layers, with penalties, and samples."""
    layers = [
        fm.Dense(4, 5, bias=False, l1=0.02, l2=0.3),
        fm.BatchNorm(),
        fm.Activation("gelu"),
        fm.Dense(5, 6, l1=0.01, penalize_bias=True),
        fm.LayerNorm(),
        fm.PReLU(),
        fm.Dropout(0.5),
        fm.Dense(6, 3),
    ]
    net = fm.MLP(layers, dtype="float64", seed=0)
    net.set_parameters(net.get_parameters() + 0.1 * rng.normal(size=net.n_parameters))
    return net, rng.normal(size=(5, 4)), LABELS


def test_complex_steps_go_through_every_layer(of_every_kind):
    with fm.use_backend("numpy"):
        exact = fm.finite_difference_gradient(*of_every_kind, scheme="complex").to_vector()
        found = of_every_kind[0].value_and_grad(*of_every_kind[1:])[1].to_vector()
    np.testing.assert_allclose(found, exact, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("distance", [1e-4, -1e-6, 1e-9, 0])
def test_a_learned_rectifier_near_its_kink(distance):
    net = fm.MLP([fm.Dense(4, 5), fm.PReLU(), fm.Dense(5, 3)], dtype="float64", seed=0)
    x = np.random.default_rng(0).normal(size=(5, 4))
    net.biases[0][2] = distance - x[0] @ net.weights[0][2]
    with fm.use_backend("numpy"):
        check = fm.check_gradient(net, x, LABELS)
    check.assert_ok()


@pytest.mark.parametrize("distance", [1e-5, 1e-6, 1e-7, 1e-8])
def test_a_penalty_where_there_is_no_bias(distance):
    net = fm.MLP([fm.Dense(2, 1, bias=False, l1=0.1)], dtype="float64", seed=0)
    x = np.array([[0.3, -0.7]])
    check = fm.check_gradient(net, x, net(x) + distance, "mae")
    check.assert_ok()
    assert check.n_kinks == 0


@pytest.mark.parametrize("penalize_bias", [False, True])
def test_only_a_penalised_bias_has_a_kink_at_0(monkeypatch, penalize_bias):
    right = fm.MLP.value_and_grad

    def wrong(self, *arguments):
        value, grad = right(self, *arguments)
        grad.biases[0][1] += 0.05
        return value, grad

    monkeypatch.setattr(fm.MLP, "value_and_grad", wrong)
    layer = fm.Dense(4, 3, l1=0.1, penalize_bias=penalize_bias)
    net = fm.MLP([layer], dtype="float64", seed=0)
    check = fm.check_gradient(net, np.random.default_rng(0).normal(size=(5, 4)), LABELS)
    assert (check.ok(), check.n_kinks) == (penalize_bias, int(penalize_bias))


def test_penalised_weights_near_their_kink(of_every_kind):
    net, x, y = of_every_kind
    net.weights[0][1, :3] = 0, 1e-8, -1e-6  # at 0 backpropagation takes the mean of −l1 and l1
    with fm.use_backend("numpy"):
        check = fm.check_gradient(net, x, y)
    check.assert_ok()
    assert check.n_kinks == 0

"""The gradient check: finds right gradients right and wrong ones wrong, on every backend."""

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
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_backpropagation_is_right(backend, activation, loss):
    check_backpropagation(backend, activation, loss, depth=2)


def check_backpropagation(backend, activation, loss, depth):
    with fm.use_backend(backend):
        for as_labels in (False, True)[: 1 + ("labels" in loss.row.target)]:
            net, x, y = draw(activation, loss, depth, as_labels)
            check = fm.check_gradient(net, x, y, loss=loss)
            assert check.ok(1e-7), f"{check}"
            assert fm.check_gradient(net, x[0], y[0], loss=loss).ok(1e-7)
            weights = [1, 0, 2, 0.5, 3]
            assert fm.check_gradient(net, x, y, loss, sample_weight=weights).ok(1e-7)


@pytest.mark.parametrize("depth", [1, 3, 4])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_backpropagation_is_right_at_every_depth(backend, depth, activation):
    check_backpropagation(backend, activation, LOSSES["cross_entropy"], depth)


@pytest.mark.parametrize("rank", [0, -1], ids=["smallest entry", "largest entry"])
def test_the_formula_of_the_error(monkeypatch, rank):
    net, x, y = draw("tanh", "quadratic", 2, as_labels=False)
    estimate = fm.finite_difference_gradient(net, x, y, "quadratic").to_vector()
    root_mean_square = np.sqrt(np.mean(estimate**2))
    index = np.argsort(np.abs(estimate))[rank]
    wrong = fm.parameters.Gradient(net.parameters.layout)
    wrong.set_vector(estimate + 0.01 * (np.arange(len(estimate)) == index))
    monkeypatch.setattr(fm.MLP, "value_and_grad", lambda *_: (0.0, wrong))
    check = fm.check_gradient(net, x, y, "quadratic")
    expected = 0.01 / max(abs(estimate[index]), root_mean_square)
    assert check.max_relative_error == pytest.approx(expected)
    assert sum(part.max_relative_error > 0 for part in check.parts) == 1


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
    check = fm.check_gradient(net, x, y)
    assert not check.ok(np.inf)
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


@pytest.mark.parametrize(("scheme", "order"), [("central", 2), ("forward", 1)])
def test_the_error_falls_with_the_step_as_the_formula_says(backend, scheme, order):
    net, x, y = draw("tanh", "quadratic", 2, as_labels=False)
    exact = net.value_and_grad(x, y, "quadratic")[1].to_vector()
    with fm.use_backend(backend):
        errors = [
            np.abs(
                fm.finite_difference_gradient(
                    net, x, y, "quadratic", scheme=scheme, step=step
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
        ({"scheme": "centre"}, "scheme must be one of 'central', 'forward', got 'centre'"),
        ({"step": 0}, r"step must be a number in \(0, inf\), got 0"),
    ],
)
def test_wrong_options_are_refused(options, message):
    net, x, y = draw("tanh", "mse", 1, as_labels=False)
    with pytest.raises(ValueError, match=message):
        fm.finite_difference_gradient(net, x, y, "mse", **options)


def test_it_prints_as_a_table():
    net, x, y = draw("tanh", "mse", 2, as_labels=False)
    lines = str(fm.check_gradient(net, x, y, "mse")).splitlines()
    assert lines[0].split() == ["layer", "part", "shape", "max", "relative", "error", "at"]
    assert [line.split()[:5] for line in lines[1:3]] == [
        ["0", "weight", "5", "×", "4"],
        ["0", "bias", "5", *lines[2].split()[3:5]],
    ]
    assert len(lines) == 5


@pytest.mark.parametrize("scheme", ["central", "forward"])
def test_a_step_that_rounding_swallows_is_refused(scheme):
    net = fm.MLP.from_sizes([2, 3], seed=0)
    net.biases[0][1] = 8
    x, options = np.ones((1, 2)), {"scheme": scheme, "step": 1e-7}
    with pytest.raises(ValueError, match=r"step must move .* float32, but 1e-07 .*, which is 8$"):
        fm.finite_difference_gradient(net, x, [0], **options)
    estimate = fm.finite_difference_gradient(net.astype("float64"), x, [0], **options)
    assert np.isfinite(estimate.to_vector()).all()

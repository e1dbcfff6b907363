"""The trace of backpropagation: equal to the kernels, and a walk-through worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

import fastmlp as fm
from fastmlp.activations import ACTIVATIONS
from fastmlp.losses import LOSSES

#: Activations that hidden layers can have, also by their other names.
HIDDEN = [name for name, row in ACTIVATIONS.items() if row.elementwise]

#: The hidden units are 1·1 + 1·2, 1·1 − 1·2 and −1·1 + 2·2 − 1, so 3, −1 and 2; the ReLU
#: turns −1 off. The output is 2·3 + 3·0 − 1·2 + 1 = 5, 3 too large: L = ½ · 3².
BY_HAND = """\
Backpropagation in MLP(2-3-1; relu, identity; 13 parameters; float64), one sample

Forward
  a⁰ = x = [1, 2]
  layer 1, relu
    z¹ = W¹ a⁰ + b¹ = [3, -1, 2]
    a¹ = σ(z¹) = [3, 0, 2]
  layer 2, identity
    z² = W² a¹ + b² = [5]
    a² = σ(z²) = [5]
  L = 4.5, quadratic

Backward
  layer 2
         ∂L/∂a² = [3]
         σ'(z²) = [1]
    BP1  δ² = ∂L/∂a² ⊙ σ'(z²) = [3]
    BP3  ∂L/∂b² = δ² = [3]
    BP4  ∂L/∂W² = δ² (a¹)ᵀ = [[9, 0, 6]]
  layer 1
         (W²)ᵀ δ² = [6, 9, -3]
         σ'(z¹) = [1, 0, 1]
    BP2  δ¹ = (W²)ᵀ δ² ⊙ σ'(z¹) = [6, 0, -3]
    BP3  ∂L/∂b¹ = δ¹ = [6, 0, -3]
    BP4  ∂L/∂W¹ = δ¹ (a⁰)ᵀ = [[6, 12],
                              [0, 0],
                              [-3, -6]]"""

#: Each loss by name, and those with parameters with some that are not the usual ones.
OBJECTIVES = (
    *LOSSES.values(),
    fm.Huber(delta=0.6),
    fm.CrossEntropy(label_smoothing=0.1, class_weight=[1, 2, 0.5, 3]),
    fm.BinaryCrossEntropy(pos_weight=[0.5, 1, 3, 2]),
    fm.Pinball(quantiles=(0.1, 0.8)),
)


@pytest.fixture
def by_hand():
    """Return the network of BY_HAND."""
    net = fm.MLP.from_sizes([2, 3, 1], "relu", dtype="float64", seed=0)
    net.weights[0][...] = [[1, 1], [1, -1], [-1, 2]]
    net.biases[0][...] = [0, 0, -1]
    net.weights[1][...] = [[2, 3, -1]]
    net.biases[1][...] = [1]
    return net


def test_the_walk_through_is_that_worked_by_hand(by_hand):
    assert str(fm.backprop_trace(by_hand, [1, 2], [2], "quadratic")) == BY_HAND


def test_the_walk_through_of_a_batch(by_hand):
    # The second sample has hidden units ½ + 3, ½ − 3 and −½ + 6 − 1, and the output 3.5.
    lines = str(fm.backprop_trace(by_hand, [[1, 2], [0.5, 3]], [2, 1], "quadratic")).splitlines()
    assert lines[0].endswith("float64), a batch of 2, rows are samples")
    for line in (
        "                       [3.5, -2.5, 4.5]]",
        "  L = 3.8125, quadratic",  # ½ · (½ · 3² + ½ · 2.5²)
        "    BP3  ∂L/∂b² = Σᵢ δ²ᵢ = [2.75]",  # ½ · 3 + ½ · 2.5
        "    BP4  ∂L/∂W² = Σᵢ δ²ᵢ (a¹ᵢ)ᵀ = [[8.875, 0, 8.625]]",
        "    BP3  ∂L/∂b¹ = Σᵢ δ¹ᵢ = [5.5, 0, -2.75]",
    ):
        assert line in lines


def test_long_arrays_are_shortened():
    net = fm.MLP.from_sizes([100, 3], seed=0)
    assert "[1, 1, 1, ..., 1, 1, 1]" in str(fm.backprop_trace(net, np.ones(100), 0))


@pytest.mark.parametrize("loss", OBJECTIVES, ids=repr)
@pytest.mark.parametrize("activation", HIDDEN)
@pytest.mark.parametrize("n_samples", [None, 1, 6])
def test_the_trace_equals_the_kernels(backend, draw_target, rng, activation, loss, n_samples):
    net = fm.MLP.from_sizes([3, 7, 5, 4], activation, dtype="float64", seed=rng)
    net.set_parameters(rng.normal(size=net.n_parameters))
    X, weights = rng.normal(size=(n_samples or 1, 3)), rng.random(n_samples or 1)
    y = draw_target(rng, loss.row.code, (len(X), 4), loss.n_targets(4))
    if n_samples is None:
        X, y = X[0], y[0]
    trace = fm.backprop_trace(net, X, y, loss, weights)
    with fm.use_backend(backend):
        value, grad = net.value_and_grad(X, y, loss, weights)
        output, below = net(X), net.input_gradient(X, y, loss, weights)
    pairs = [(trace.value, value), (trace.layers[-1].a, output)]
    pairs += [(trace.layers[0].delta @ net.weights[0], below)]
    for layer, grad_weight, grad_bias in zip(trace.layers, grad.weights, grad.biases, strict=True):
        pairs += [(layer.grad_weight, grad_weight), (layer.grad_bias, grad_bias)]
    for traced, computed in pairs:
        assert np.shape(traced) == np.shape(computed)
        scale = np.abs(computed).max()
        np.testing.assert_allclose(traced, computed, rtol=1e-12, atol=1e-12 * scale)


def test_every_intermediate_obeys_its_equation(rng):
    net = fm.MLP.from_sizes([4, 7, 3], "tanh", "sigmoid", dtype="float64", seed=rng)
    X, y = rng.normal(size=(6, 4)), rng.normal(size=(6, 3))
    first, last = fm.backprop_trace(net, X, y, "quadratic").layers
    same = np.testing.assert_allclose
    same(first.x, X)
    same(first.z, X @ net.weights[0].T + net.biases[0])
    same(first.a, np.tanh(first.z))
    same(last.x, first.a)
    same(last.grad_a, (last.a - y) / 6)
    same(last.slope, last.a * (1 - last.a))
    same(last.delta, last.grad_a * last.slope)
    same(first.grad_a, last.delta @ net.weights[1])
    same(first.slope, 1 - first.a**2)
    same(first.delta, first.grad_a * first.slope)
    assert (first.number, last.number) == (1, 2)
    assert (first.activation, last.activation) == ("tanh", "sigmoid")

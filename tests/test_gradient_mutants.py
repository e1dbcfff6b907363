"""Mistakes planted in backpropagation are found by the check, equation by equation.

The gradient is put together from a backend's layer kernels, one of which is replaced by a
wrong one; in place of the backend's own it goes through `fastmlp.check_gradient`.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import fastmlp as fm
from fastmlp.kernels import arena
from fastmlp.kernels.catalogue import CODES

N_SAMPLES = 5

#: Square, so that a transposed product has the right shape.
WIDTHS = (4, 4, 4, 4)

STEPS = (
    "loss_backward",
    "activation_backward",
    "dense_forward",
    "dense_backward_input",
    "dense_backward_weight",
)


def layers_of(table, arena_):
    """Yield the weight, bias and activation of each layer."""
    for n_in, n_out, start, stride, bias, activation, *_ in table:
        weight = arena_[start : start + n_in * stride].reshape(n_in, stride)[:, :n_out]
        yield weight, arena_[bias : bias + n_out], activation


def backpropagation(steps):
    """Make `network_gradient` out of the layer kernels of a backend."""

    def network_gradient(
        layers, settings, parameters, x, target, labels, sample_weight, loss, loss_parameters,
        grad, workspace, n_threads=1,
    ):  # fmt: skip
        scratch = np.empty(arena.panel_size(max(*WIDTHS, len(x))))
        outputs, views = [x], list(layers_of(layers, parameters))
        alphas = settings[:, CODES["ALPHA"]]
        for (weight, bias, activation), alpha in zip(views, alphas, strict=True):
            outputs.append(np.empty((len(x), len(bias))))
            steps.dense_forward(outputs[-2], weight, bias, activation, alpha, outputs[-1], scratch)
        delta = np.empty_like(outputs[-1])
        samples = target, labels, sample_weight
        steps.loss_backward(outputs[-1], *samples, loss, loss_parameters, delta)
        steps.activation_backward(outputs[-1], delta, views[-1][2], alphas[-1], delta)
        gradients = list(layers_of(layers, grad))
        for index in reversed(range(len(layers))):
            grad_weight, grad_bias, _ = gradients[index]
            steps.dense_backward_weight(outputs[index], delta, grad_weight, grad_bias, scratch)
            if index:
                below = np.empty_like(outputs[index])
                steps.dense_backward_input(
                    delta, views[index][0], outputs[index], views[index - 1][2],
                    alphas[index - 1], below, scratch,
                )  # fmt: skip
                delta = below
        return 0.0

    return network_gradient


def scaled(name, factor):
    """Multiply what a step gives in its last output."""

    def mutate(right):
        def wrong(*arguments):
            getattr(right, name)(*arguments)
            arguments[-1 if name in ("loss_backward", "activation_backward") else -2][...] *= factor

        return {name: wrong}

    return mutate


def without_derivative_at_the_top(right):
    def wrong(y, grad, activation, alpha, out):
        right.activation_backward(y, grad, CODES["IDENTITY"], alpha, out)

    return {"activation_backward": wrong}


def derivative_of_z_for_y(right):
    def wrong(y, grad, activation, alpha, out):
        right.activation_backward(np.arctanh(y), grad, activation, alpha, out)

    return {"activation_backward": wrong}


def without_derivative_below(right):
    def wrong(delta, weight, y, activation, alpha, out, workspace):
        right.dense_backward_input(delta, weight, y, CODES["IDENTITY"], alpha, out, workspace)

    return {"dense_backward_input": wrong}


def weight_not_transposed(right):
    def wrong(delta, weight, *others):
        right.dense_backward_input(delta, np.ascontiguousarray(weight.T), *others)

    return {"dense_backward_input": wrong}


def derivative_of_another_sample(right):
    def wrong(delta, weight, y, *others):
        right.dense_backward_input(delta, weight, np.roll(y, 1, axis=0), *others)

    return {"dense_backward_input": wrong}


def of_weight_and_bias(change_weight=lambda grad, x, delta: grad, change_bias=lambda grad, d: grad):
    """Change what the step of BP3 and BP4 gives."""

    def mutate(right):
        def wrong(x, delta, grad_weight, grad_bias, workspace):
            right.dense_backward_weight(x, delta, grad_weight, grad_bias, workspace)
            grad_weight[...] = change_weight(grad_weight.copy(), x, delta)
            grad_bias[...] = change_bias(grad_bias.copy(), delta)

        return {"dense_backward_weight": wrong}

    return mutate


MUTANTS = {
    "BP1: sign": scaled("loss_backward", -1),
    "BP1: missing 1/n": scaled("loss_backward", N_SAMPLES),
    "BP1: missing σ'": without_derivative_at_the_top,
    "BP1: σ' of z in place of y": derivative_of_z_for_y,
    "BP2: sign": scaled("dense_backward_input", -1),
    "BP2: missing σ'": without_derivative_below,
    "BP2: W in place of Wᵀ": weight_not_transposed,
    "BP2: σ' of another sample": derivative_of_another_sample,
    "BP3: sign": of_weight_and_bias(change_bias=lambda grad, delta: -grad),
    "BP3: mean in place of sum": of_weight_and_bias(change_bias=lambda grad, d: grad / len(d)),
    "BP3: last sample only": of_weight_and_bias(change_bias=lambda grad, delta: delta[-1]),
    "BP4: sign": of_weight_and_bias(lambda grad, x, delta: -grad),
    "BP4: transpose": of_weight_and_bias(lambda grad, x, delta: grad.T),
    "BP4: mean in place of sum": of_weight_and_bias(lambda grad, x, delta: grad / len(x)),
    "BP4: a row too few": of_weight_and_bias(lambda grad, x, delta: x[1:].T @ delta[1:]),
    "BP4: 1 % too large": of_weight_and_bias(lambda grad, x, delta: 1.01 * grad),
}


@pytest.fixture
def check(backend, kernels, monkeypatch, rng):
    """Return the function that checks a network whose backpropagation has a mistake."""
    net = fm.MLP.from_sizes(WIDTHS, "tanh", "tanh", dtype="float64", seed=rng)
    X, y = rng.normal(size=(N_SAMPLES, 4)), rng.normal(size=(N_SAMPLES, 4))

    def run(mutate):
        right = SimpleNamespace(**{name: getattr(kernels, name) for name in STEPS})
        wrong = SimpleNamespace(**vars(right) | mutate(right))
        monkeypatch.setattr(kernels, "network_gradient", backpropagation(wrong))
        with fm.use_backend(backend):
            return fm.check_gradient(net, X, y, "quadratic", inputs=False)

    return run


def test_without_a_mistake_the_check_passes(check):
    check(lambda right: {}).assert_ok()


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mistake_is_found(check, name):
    result = check(MUTANTS[name])
    assert not result.ok()
    assert result.n_kinks == 0
    kinds = {part.kind for part in result.parts if part.max_relative_error > result.tolerance}
    expected = {"BP3": {"bias"}, "BP4": {"weight"}}.get(name[:3], {"weight", "bias"})
    assert kinds == expected


def test_a_wrong_input_gradient_is_found(backend, kernels, monkeypatch, rng):
    right = kernels.network_input_gradient

    def wrong(layers, settings, parameters, *others):
        flipped = parameters.copy()
        flipped[:4] *= -1
        return right(layers, settings, flipped, *others)

    net = fm.MLP.from_sizes([4, 3], dtype="float64", seed=rng)
    monkeypatch.setattr(kernels, "network_input_gradient", wrong)
    with fm.use_backend(backend):
        result = fm.check_gradient(net, rng.normal(size=(N_SAMPLES, 4)), np.arange(5) % 3)
    assert result.worst.kind == "input"
    assert not result.ok()

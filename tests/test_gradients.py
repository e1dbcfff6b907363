"""Backpropagation is the derivative of the loss: checked against central differences."""

from __future__ import annotations

import numpy as np
import pytest

from fastmlp.kernels.catalogue import ACTIVATIONS

WIDTHS = (4, 5, 3, 4, 3)

#: Truncation h²/6·L''' ≈ 2e-11 and rounding eps·L/h ≈ 2e-11 are both far below 1e-7.
STEP = 1e-5

#: Moving a weight by h moves no pre-activation as far as this, so none crosses a kink.
MARGIN = 100 * STEP


every_activation = pytest.mark.parametrize("activation", [row.name for row in ACTIVATIONS])


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@every_activation
def test_every_depth(kernels, make_problem, depth, activation):
    activations = [activation] * depth
    compare_with_differences(
        kernels, make_problem(np.float64, WIDTHS[: depth + 1], activations, margin=MARGIN)
    )


@every_activation
def test_every_activation_with_every_loss(kernels, make_problem, activation, objective):
    problem = make_problem(
        np.float64, WIDTHS[:3], [activation] * 2, **objective, n_samples=4, margin=MARGIN
    )
    problem = problem.replace(sample_weight=np.array([2, 0.5, 0, 1]))
    compare_with_differences(kernels, problem)


def compare_with_differences(kernels, problem):
    """Compare the gradient of a problem with central differences."""
    grad = np.zeros_like(problem.parameters)
    kernels.network_gradient(**problem.arguments("network_gradient", grad=grad))
    estimate = np.empty(len(problem.used))
    steps = np.full_like(estimate, STEP)
    kernels.network_difference_gradient(
        **problem.arguments(
            "network_difference_gradient",
            indices=problem.used,
            steps=steps,
            central=True,
            out=estimate,
        )
    )
    exact = grad[problem.used]
    root_mean_square = np.sqrt(np.mean(exact**2))
    assert root_mean_square > 1e-3  # else the check says nothing
    error = np.abs(estimate - exact) / np.maximum(np.abs(exact), root_mean_square)
    assert error.max() <= 1e-7

"""Convergence is as fast as theory says: on quadratics, and with noise.

The experiments are those of ``examples/convergence_rates.py``.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from fastmlp.schedules import Constant, InverseTime

PATH = Path(__file__).parents[1] / "examples" / "convergence_rates.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("convergence_rates", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("condition", [10, 100, 1000])
def test_the_data_have_the_condition(example, condition):
    X = example.inputs_with_condition(condition)
    X = np.c_[X, np.ones(len(X))]
    eigenvalues = np.linalg.eigvalsh(X.T @ X / len(X))
    assert eigenvalues.min() == pytest.approx(1, rel=1e-9)
    assert eigenvalues.max() == pytest.approx(condition, rel=1e-9)


@pytest.mark.parametrize("condition", [10, 100, 1000])
@pytest.mark.parametrize("method", ["gradient descent", "heavy ball", "Nesterov"])
def test_rate_on_a_quadratic(example, method, condition):
    optimizer, theory = example.methods(condition)[method]
    root = np.sqrt(condition)
    expected = {
        "gradient descent": (condition - 1) / (condition + 1),
        "heavy ball": (root - 1) / (root + 1),
        "Nesterov": 1 - 1 / root,
    }
    assert theory == pytest.approx(expected[method], rel=1e-12)
    # Rates near 1 agree within 5 % whatever they are; the steps they take must agree too.
    rate = example.measured_rate(condition, optimizer, theory)
    assert rate == pytest.approx(theory, rel=0.05)
    assert np.log(rate) == pytest.approx(np.log(theory), rel=0.05)


def slope(example, errors, first):
    """Return the slope of the error by the step, in log-log, from a step on."""
    steps = example.CHECKPOINTS
    late = steps >= first
    return np.polyfit(np.log(steps[late]), np.log(errors[late]), deg=1)[0]


def test_sgd_with_rates_of_1_over_k_falls_as_1_over_k(example):
    errors = example.errors_of_sgd(InverseTime(0.1, decay_steps=20))
    assert example.CHECKPOINTS[-1] == 1000 * example.CHECKPOINTS[0]
    assert slope(example, errors, first=100) == pytest.approx(-1, abs=0.15)


def test_sgd_with_a_constant_rate_stalls_where_noise_leaves_it(example):
    floors = []
    for rate in (0.02, 0.01):
        errors = example.errors_of_sgd(Constant(rate))
        assert slope(example, errors, first=1000) == pytest.approx(0, abs=0.15)
        floors.append(errors[example.CHECKPOINTS >= 1000].mean())
    # Half the rate, about half the floor: the variance of θ is about α/2 for small α.
    assert floors[1] / floors[0] == pytest.approx(0.5, abs=0.1)
    assert floors[1] == pytest.approx(5 * 0.01 / 4, rel=0.15)

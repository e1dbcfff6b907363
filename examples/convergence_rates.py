"""The lecture's claims on convergence: momentum turns κ into √κ, and noise needs O(1/k).

On quadratics whose curvatures span a condition number κ, gradient descent, heavy ball and
Nesterov's method shrink the error by (κ−1)/(κ+1), (√κ−1)/(√κ+1) and 1−1/√κ in a step, at
the parameters that are best for each. With noise, stochastic gradient descent stalls at a
constant learning rate, and falls as 1/k at a rate of O(1/k). This measures all of it on
linear networks that are trained by ``net.fit``, and prints it:

    python examples/convergence_rates.py [CONDITION ...]
"""

from __future__ import annotations

import sys
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

import fastmlp as fm
from fastmlp.schedules import Constant, InverseTime, Schedule

CONDITIONS = (10.0, 100.0, 1000.0)
N_SAMPLES, N_FEATURES, N_OUTPUTS = 16, 8, 32

#: Steps of stochastic gradient descent after which the error is looked at: three decades.
CHECKPOINTS = np.unique(np.geomspace(1e2, 1e5, 19).astype(int))


def inputs_with_condition(condition: float) -> NDArray[np.float64]:
    """Return inputs X for which the Hessian XᵀX/n has eigenvalues from 1 to the condition.

    The columns are orthogonal to a constant one, so that the bias, of curvature 1, does not
    interact with the weights.
    """
    rng = np.random.default_rng(0)
    eigenvalues = np.geomspace(1, condition, N_FEATURES)
    columns = np.c_[np.ones(N_SAMPLES), rng.normal(size=(N_SAMPLES, N_FEATURES))]
    orthogonal = np.linalg.qr(columns)[0][:, 1:]
    rotation = np.linalg.qr(rng.normal(size=(N_FEATURES, N_FEATURES)))[0]
    return np.sqrt(N_SAMPLES * eigenvalues) * orthogonal @ rotation


def methods(condition: float) -> dict[str, tuple[fm.SGD, float]]:
    """Return each method with its best parameters for curvatures from 1, and its rate."""
    root = np.sqrt(condition)
    slow, fast = (condition - 1) / (condition + 1), (root - 1) / (root + 1)
    return {
        "gradient descent": (fm.SGD(2 / (condition + 1)), slow),
        "heavy ball": (fm.SGD(4 / (root + 1) ** 2, fast**2), fast),
        "Nesterov": (fm.SGD(1 / condition, fast, momentum_style="nesterov"), 1 - 1 / root),
    }


def measured_rate(condition: float, optimizer: fm.SGD, rate: float) -> float:
    """Train with full batches and return by what the error shrinks in a step.

    The targets are 0, so the loss is the square of the error without a floor of rounding.
    Where two roots coincide, as they do at the best momentum, the error is k·rateᵏ, whose
    factor k is 1 % of the exponent after 100/−log(rate) steps.
    """
    steps = round((100 if optimizer.momentum else 10) / -np.log(rate))
    net = fm.MLP([fm.Dense(N_FEATURES, 1)], dtype="float64", seed=0)
    history = net.fit(
        inputs_with_condition(condition),
        np.zeros(N_SAMPLES),
        loss="quadratic",
        optimizer=optimizer,
        epochs=steps,
        batch_size=None,
        shuffle=False,
        verbose=0,
    )
    late = np.arange(steps // 2, steps)
    slope = np.polyfit(late, np.log(history.loss)[late], deg=1)[0]
    return float(np.exp(slope / 2))


def errors_of_sgd(learning_rate: Schedule) -> NDArray[np.float64]:
    """Train on a stream of samples, one a step, and return f − f* at the checkpoints.

    Inputs and targets are independent normal numbers: the best parameters are 0, and
    f − f* is half their square. Each output is a repetition of its own.
    """
    rng = np.random.default_rng(0)
    net = fm.MLP([fm.Dense(4, N_OUTPUTS)], dtype="float64", seed=0)
    optimizer = fm.SGD(learning_rate)
    errors = []
    for start, stop in pairwise([0, *CHECKPOINTS]):
        X = rng.normal(size=(stop - start, 4))
        noise = rng.normal(size=(stop - start, N_OUTPUTS))
        options = {"epochs": 1, "batch_size": 1, "shuffle": False, "verbose": 0}
        net.fit(X, noise, "quadratic", optimizer, **options)
        errors.append(np.sum(net.get_parameters() ** 2) / (2 * N_OUTPUTS))
    return np.array(errors)


def main(conditions: tuple[float, ...]) -> None:
    """Print a line for each condition and method, and for each learning rate with noise."""
    print(f"{'condition':>9}  {'method':16}  {'rate':>8}  {'theory':>8}  steps for a digit")
    for condition in conditions:
        for name, (optimizer, theory) in methods(condition).items():
            rate = measured_rate(condition, optimizer, theory)
            digit = -np.log(10) / np.log(rate)
            print(f"{condition:9g}  {name:16}  {rate:8.5f}  {theory:8.5f}  {digit:17.1f}")
    print()
    last = CHECKPOINTS[-1] / 100 <= CHECKPOINTS
    print(f"f − f* of SGD with noise, from step {CHECKPOINTS[0]:,} to {CHECKPOINTS[-1]:,}")
    for schedule in (InverseTime(0.1, 20), Constant(0.02), Constant(0.01)):
        errors = errors_of_sgd(schedule)
        slope = np.polyfit(np.log(CHECKPOINTS[last]), np.log(errors[last]), deg=1)[0]
        print(f"{schedule}: {errors[0]:.2g} → {errors[-1]:.2g}, in the end as k^{slope:.2f}")


if __name__ == "__main__":
    main(tuple(map(float, sys.argv[1:])) or CONDITIONS)

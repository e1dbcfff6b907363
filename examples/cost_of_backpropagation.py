"""The lecture's claims: what a gradient costs, and how exact a finite difference can be.

Backpropagation costs about two more forward passes, finite differences one or two forward
passes for each weight. This measures both for networks of growing width, and a fair
opponent too: differences that compute again only what a weight changes. Where moving all
weights would take long, a random sample of them is moved; the cost of all is extrapolated
from those and marked with ≈. Then it shows the error of differences against their step.

    python examples/cost_of_backpropagation.py [WIDTH ...]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from statistics import median
from time import perf_counter

import numpy as np

import fastmlp as fm

#: Networks WIDTH-WIDTH-WIDTH-10 of about 10², 10³ … 10⁷ weights and biases.
WIDTHS = (5, 19, 68, 221, 705, 2233)

#: The network for digits of 28 × 28 pixels, measured in any case.
DIGITS = (784, 256, 128, 10)

#: So large that a call's own 10 µs do not count.
BATCH_SIZE = 256

#: All weights are moved as long as that takes no more seconds.
PATIENCE = 2.0

STEPS = 10.0 ** np.arange(-1, -13, -1)


def seconds(call: Callable[[], object], repeats: int = 7) -> float:
    """Return the median duration of a call, after one to warm up."""
    call()
    durations = []
    for _ in range(repeats):
        began = perf_counter()
        call()
        durations.append(perf_counter() - began)
    return median(durations)


def samples(sizes: tuple[int, ...], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a random batch for a network."""
    X = rng.normal(size=(BATCH_SIZE, sizes[0])).astype("float32")
    return X, rng.integers(sizes[-1], size=BATCH_SIZE)


def cost_of_differences(
    net: fm.MLP, X: np.ndarray, y: np.ndarray, method: str, rng: np.random.Generator
) -> tuple[float, int]:
    """Return the seconds that moving all weights takes, and how many were moved to know it."""
    n_moved, taken = 0, 0.0
    while taken < PATIENCE / 8 and n_moved < net.n_parameters:
        n_before, before = n_moved, taken
        n_moved = min(max(16, 4 * n_moved), net.n_parameters)
        entries = rng.permutation(net.n_parameters)[:n_moved]

        def move(entries: np.ndarray = entries) -> None:
            fm.finite_difference_gradient(net, X, y, method=method, entries=entries)

        taken = seconds(move, 3)
    if n_moved == net.n_parameters:
        return taken, n_moved
    # What does not depend on the number of weights cancels.
    return (taken - before) / (n_moved - n_before) * net.n_parameters, n_moved


def compare(sizes: tuple[int, ...]) -> tuple[int, float]:
    """Print what the gradients of a network cost; return its size and naive / backprop."""
    rng = np.random.default_rng(0)
    net = fm.MLP.from_sizes(sizes, activation="tanh", seed=0)
    X, y = samples(sizes, rng)
    forward = seconds(lambda: net(X))
    gradient = seconds(lambda: net.value_and_grad(X, y))
    columns = []
    for method in ("naive", "fair"):
        cost, n_moved = cost_of_differences(net, X, y, method, rng)
        columns.append((cost, "≈" if n_moved < net.n_parameters else " "))
    (naive, mark), (fair, fair_mark) = columns
    name = "-".join(map(str, sizes))
    print(
        f"{name:>18} {net.n_parameters:10,} {forward * 1e3:9.3f} ms"
        f" {gradient / forward:8.2f} {mark}{naive / gradient:14,.0f}"
        f" {fair_mark}{fair / gradient:12,.0f} {naive / fair:9.1f}",
        flush=True,
    )
    return net.n_parameters, naive / gradient


def compare_costs(widths: tuple[int, ...]) -> None:
    """Print a line for each width, and how the cost grows."""
    print(
        f"{'network':>18} {'parameters':>10} {'forward':>12} {'gradient':>8}"
        f" {'naive':>15} {'fair':>13} {'naive':>9}"
    )
    print(
        f"{'':>18} {'':>10} {'':>12} {'/ fwd':>8} {'/ gradient':>15} {'/ gradient':>13}"
        f" {'/ fair':>9}"
    )
    measured = [compare((width, width, width, 10)) for width in widths]
    if widths == WIDTHS:
        compare(DIGITS)
    slope = np.polyfit(*np.log(measured).T, 1)[0]
    print(f"naive / gradient grows as parameters^{slope:.3f} (central differences, one thread)")


def compare_errors() -> None:
    """Print the error of differences against their step, in float64."""
    X, y, _, _ = fm.datasets.load_digits()
    X, y = X[:32], y[:32]
    net = fm.MLP.from_sizes([64, 32, 10], "tanh", dtype="float64", seed=0)
    exact = net.value_and_grad(X, y)[1].to_vector()
    size = np.sqrt(np.mean(exact**2))
    entries = np.random.default_rng(0).choice(len(exact), 300, replace=False)
    print(f"{'step':>7} {'forward':>9} {'central':>9}  largest error / root mean square")
    for step in STEPS:
        errors = []
        for scheme in ("forward", "central"):
            estimate = fm.finite_difference_gradient(
                net, X, y, scheme=scheme, step=step, entries=entries
            ).to_vector()
            errors.append(np.abs(estimate - exact)[entries].max() / size)
        bars = "".join(f" {'*' * max(0, round(2 * np.log10(error) + 22)):<24}" for error in errors)
        print(f"{step:7.0e} {errors[0]:9.1e} {errors[1]:9.1e} {bars.rstrip()}")


if __name__ == "__main__":
    fm.set_num_threads(1)
    compare_costs(tuple(map(int, sys.argv[1:])) or WIDTHS)
    print()
    compare_errors()

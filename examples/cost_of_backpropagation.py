"""The lecture's claim: a gradient by backpropagation costs about two more forward passes.

Finite differences cost one forward pass for each weight. This measures both, for networks
of growing width, and prints what they cost in forward passes:

    python examples/cost_of_backpropagation.py [WIDTH ...]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from statistics import median
from time import perf_counter

import numpy as np

import fastmlp as fm

WIDTHS = (16, 64, 256, 1024)
BATCH_SIZE = 64

#: Weights that are moved; the cost of all is extrapolated from them.
MOVED_WEIGHTS = 20


def seconds(call: Callable[[], object], repeats: int = 15) -> float:
    """Return the median duration of a call, after one to warm up."""
    call()
    durations = []
    for _ in range(repeats):
        began = perf_counter()
        call()
        durations.append(perf_counter() - began)
    return median(durations)


def main(widths: tuple[int, ...]) -> None:
    """Print a line for each width."""
    rng = np.random.default_rng(0)
    print(f"{'width':>6} {'weights':>10} {'forward':>12} {'gradient':>22} {'differences':>24}")
    for width in widths:
        net = fm.MLP.from_sizes([width, width, width, 10], activation="tanh", seed=0)
        X = rng.normal(size=(BATCH_SIZE, width)).astype(net.dtype)
        y = rng.integers(10, size=BATCH_SIZE)

        def move_weights(net=net, X=X, y=y, width=width) -> None:
            first_row = net.weights[0][0]
            for index in np.arange(MOVED_WEIGHTS) % width:
                weight = first_row[index]
                first_row[index] = weight + 1e-3
                net.loss(X, y)
                first_row[index] = weight

        forward = seconds(lambda net=net, X=X: net(X))
        gradient = seconds(lambda net=net, X=X, y=y: net.value_and_grad(X, y))
        differences = seconds(move_weights, 3) / MOVED_WEIGHTS * net.n_parameters
        print(
            f"{width:6} {net.n_parameters:10,} {forward * 1e6:9.1f} µs"
            f" {gradient / forward:9.1f} forward passes"
            f" {differences / forward:11,.0f} forward passes"
        )


if __name__ == "__main__":
    main(tuple(map(int, sys.argv[1:])) or WIDTHS)

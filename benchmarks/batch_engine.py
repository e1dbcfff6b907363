"""The batch engine against today's libraries: python benchmarks/batch_engine.py [LINE ...]."""

from __future__ import annotations

import sys

from compare import print_table
from problems import Problem

MNIST = (784, 256, 128, 10)
WIDE = (784, 2048, 2048, 10)
CONTROL = (17, 64, 64, 6)
CURVE = (4, 32, 16, 4)

TRAINERS = ("fastmlp", "torch", "jax", "numpy", "sklearn")
RUNNERS = ("fastmlp", "onnxruntime", "jax", "torch", "numpy")

LINES: dict[str, list[Problem]] = {
    "mnist": [Problem(MNIST, 128), Problem(MNIST, 128, optimizer="sgd")],
    "mnist64": [Problem(MNIST, 128, optimizer="sgd", dtype="float64")],
    "wide": [Problem(WIDE, 128, optimizer=name) for name in ("sgd", "adam")],
    "control": [Problem(CONTROL, n, name) for name in ("tanh", "relu") for n in (32, 128, 1024)],
    "curve": [Problem(CURVE, 10_000, "tanh", "quadratic", n_batches=1)],
    "forward": [Problem(MNIST, n, optimizer=None) for n in (32, 128, 1024)],
}


def main(names: list[str]) -> None:
    """Measure the lines of these names, or all, on two threads and on one."""
    unknown = set(names) - set(LINES)
    if unknown:
        sys.exit(f"LINE must be one of {', '.join(LINES)}, got {', '.join(sorted(unknown))}")
    for name in names or LINES:
        for problem in LINES[name]:
            for n_threads in (2, 1):
                runners = RUNNERS if problem.optimizer is None else TRAINERS
                print_table(problem, n_threads, runners)


main(sys.argv[1:])

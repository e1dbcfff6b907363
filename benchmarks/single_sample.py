"""One sample a call against today's libraries: python benchmarks/single_sample.py [LINE ...]."""

from __future__ import annotations

import sys
from functools import partial

from compare import print_table
from problems import Problem

TRAINERS = ("fastmlp", "numpy", "torch", "jax")
RUNNERS = (*TRAINERS, "onnxruntime")

Sample = partial(Problem, batch_size=1, single=True)

LINES: dict[str, list[Problem]] = {
    "control": [
        Sample((17, 64, 64, 6), optimizer=None),
        Sample((17, 64, 64, 6), optimizer="sgd", gradient=True),
        Sample((17, 64, 64, 6), optimizer="sgd"),
    ],
    "mnist": [Sample((784, 256, 128, 10), optimizer=name) for name in (None, "sgd")],
    "wide": [Sample((784, 2048, 2048, 10), optimizer=name) for name in (None, "sgd")],
}


def main(names: list[str]) -> None:
    """Measure the lines of these names, or all, on one thread."""
    unknown = set(names) - set(LINES)
    if unknown:
        sys.exit(f"LINE must be one of {', '.join(LINES)}, got {', '.join(sorted(unknown))}")
    for name in names or LINES:
        for problem in LINES[name]:
            print_table(problem, 1, TRAINERS if problem.optimizer else RUNNERS)


main(sys.argv[1:])

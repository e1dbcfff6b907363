"""Training steps with each optimizer."""

from collections.abc import Callable, Iterator

import fastmlp as fm
from fastmlp.benchmarks.calls import fit_case
from fastmlp.benchmarks.measuring import Case, Options
from fastmlp.benchmarks.problems import MNIST, Problem

OPTIMIZERS = {
    "SGD": lambda: fm.SGD(1e-4),
    "SGD, momentum": lambda: fm.SGD(1e-4, momentum=0.9),
    "SGD, Nesterov": lambda: fm.SGD(1e-4, momentum=0.9, momentum_style="nesterov"),
    "Adagrad": lambda: fm.Adagrad(1e-4),
    "RMSprop": lambda: fm.RMSprop(1e-4),
    "Adam": lambda: fm.Adam(1e-4),
    "AdamW": lambda: fm.AdamW(1e-4),
    "Adamax": lambda: fm.Adamax(1e-4),
    "NAdam": lambda: fm.NAdam(1e-4),
    "Lion": lambda: fm.Lion(1e-5),
}


def cases(options: Options) -> Iterator[Case]:
    """Return a case for each optimizer, compared with plain SGD."""
    sizes, n_batches = (MNIST, 8) if options.timed else ((16, 8, 10), 2)
    for name, make in OPTIMIZERS.items():
        # The bytes of the state differ, so the ceiling is that of SGD: what a state costs shows.
        problem = Problem(sizes, 128, "sgd", n_batches=n_batches)
        line = f"{'-'.join(map(str, sizes))} relu, training step, batch 128; 1 thread"
        yield fit_case(line, name, problem, 1, make)


def test_optimizer(case: Case, bench: Callable[[Case], None]) -> None:
    """Time an optimizer."""
    bench(case)

"""How much memory training takes at its peak, beyond what the import of the library took.

Making the network, converting the data and compiling count; whoever trains must at least hold the
data, the parameters, the optimizer's state and the activations of a batch. Memory is the C
library's to keep or to give back, as it is for users.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from fastmlp.benchmarks.measuring import Case, Options, Process, contest
from fastmlp.benchmarks.problems import MNIST, WIDE, Problem

LINES_APART = True

TRAINERS = ("fastmlp", "NumPy in place", "NumPy plain", "scikit-learn", "PyTorch", "JAX")


def cases(options: Options) -> Iterator[Case]:
    """Return a case for each library: of much data, 26 MB, and of many parameters, 23 MB."""
    problems = [Problem(MNIST, 128, n_batches=64 if options.timed else 2)]
    if not options.small:
        problems.append(Problem(WIDE, 128, n_batches=8))
    for problem in problems:
        held = sum(problem.held_bytes().values())
        for case in contest(options, problem, 1, TRAINERS, held_bytes=held):
            line = f"{problem}, an epoch of {problem.n_batches}"
            start = partial(Process, case.name, problem, 1, environment={})
            yield replace(case, line=line, open=start, rounds=1, long=True)


def test_memory(case: Case, bench: Callable[[Case], None]) -> None:
    """Measure a library."""
    bench(case)

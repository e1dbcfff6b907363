"""How much memory training takes, beyond the libraries' own."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from fastmlp.benchmarks.measuring import Case, Options, contest
from fastmlp.benchmarks.problems import MNIST, Problem

LINES_APART = True

TRAINERS = ("fastmlp", "NumPy in place", "NumPy plain", "scikit-learn", "PyTorch", "JAX")


def cases(options: Options) -> Iterator[Case]:
    """Return a case for each library: epochs over 8,192 samples, 26 MB."""
    problem = Problem(MNIST, 128, n_batches=64 if options.timed else 2)
    for case in contest(options, problem, 1, TRAINERS):
        yield replace(
            case, line=f"{case.line}, an epoch of {problem.n_batches}", rounds=5, long=True
        )


def test_memory(case: Case, bench: Callable[[Case], None]) -> None:
    """Measure a library."""
    bench(case)

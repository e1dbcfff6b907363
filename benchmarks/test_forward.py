"""Outputs of batches against other libraries."""

from collections.abc import Callable, Iterator
from itertools import product

from fastmlp.benchmarks.measuring import Case, Options, contest
from fastmlp.benchmarks.problems import MNIST, WIDE, Problem

LINES_APART = True

RUNNERS = (
    "fastmlp",
    "NumPy in place",
    "NumPy plain",
    "scikit-learn",
    "PyTorch",
    "JAX",
    "ONNX Runtime",
)


def cases(options: Options) -> Iterator[Case]:
    """Return the lines, on one thread and on all."""
    counts = (1,) if options.quick else options.thread_counts
    batches = [(MNIST, 128)]
    if not options.small:
        batches = [(MNIST, 32), *batches, (MNIST, 1024), (WIDE, 128)]
    for (sizes, n), n_threads in product(batches, counts):
        slow = ["PyTorch compiled"] if (n, n_threads) == (1024, 1) else []
        problem = Problem(sizes, n, "forward", n_batches=1)
        yield from contest(options, problem, n_threads, (*RUNNERS, *slow))


def test_forward(case: Case, bench: Callable[[Case], None]) -> None:
    """Time a competitor."""
    bench(case)

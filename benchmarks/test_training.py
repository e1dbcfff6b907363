"""Training steps against other libraries, the mini-batch engine's lines."""

from collections.abc import Callable, Iterator
from itertools import product

from fastmlp.benchmarks.measuring import Case, Options, contest
from fastmlp.benchmarks.problems import CONTROL, CURVE, MNIST, WIDE, Problem

LINES_APART = True  # each line starts its own processes

TRAINERS = ("fastmlp", "NumPy in place", "NumPy plain", "scikit-learn", "PyTorch", "JAX")

#: Compiling takes half a minute, and Numba's kernels some seconds: only here.
ALL_TRAINERS = (*TRAINERS, "PyTorch compiled", "fastmlp numba", "fastmlp numpy")


def cases(options: Options) -> Iterator[Case]:
    """Return the lines, on one thread and on all."""
    most = Problem(MNIST, 128)
    problems = [
        Problem(MNIST, 128, "sgd"),
        Problem(CONTROL, 128, activation="tanh"),
    ]
    if not options.small:
        problems += [
            Problem(MNIST, 32),
            Problem(MNIST, 128, "sgd", dtype="float64"),
            *[Problem(WIDE, 128, job, n_batches=2) for job in ("sgd", "adam")],
            *[Problem(CONTROL, n, activation="tanh") for n in (32, 1024)],
            *[Problem(CONTROL, n) for n in (32, 128, 1024)],
            Problem(CURVE, 10_000, activation="tanh", loss="quadratic", n_batches=1),
        ]
    if options.timed:
        yield from contest(options, most, 1, TRAINERS if options.quick else ALL_TRAINERS)
    counts = (1,) if options.quick else options.thread_counts
    for problem, n_threads in product([most, *problems], counts):
        if (problem, n_threads) != (most, 1):
            # What JAX needs for a call counts where steps are short.
            epochs = ("JAX scan",) if problem.sizes == CONTROL else ()
            yield from contest(options, problem, n_threads, (*TRAINERS, *epochs))


def test_training(case: Case, bench: Callable[[Case], None]) -> None:
    """Time a competitor."""
    bench(case)

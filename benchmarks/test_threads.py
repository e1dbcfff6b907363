"""What threads gain, with the threads that fastmlp chooses itself up to the limit."""

from collections.abc import Callable, Iterator
from itertools import product

import fastmlp as fm
from fastmlp.benchmarks.calls import call_case, fit_case
from fastmlp.benchmarks.measuring import Case, Options
from fastmlp.benchmarks.problems import MNIST, WIDE, Problem

WIDTHS = (4, 8, 16, 32, 64, 96, 128, 256, 512)
BATCHES = (1, 8, 32, 128, 1024)


def problems(options: Options) -> Iterator[Problem]:
    """Return the large problems that should gain, and small ones that must not lose."""
    if not options.timed:
        yield Problem((48, 48, 48, 10), 8, n_batches=2)
        return
    for job in ("adam", "sgd"):
        yield Problem(MNIST, 128, job)
        yield Problem(WIDE, 128, job, n_batches=1 if options.quick else 2)
    yield Problem(MNIST, 1024, "forward", n_batches=1)
    widths, batches = (WIDTHS[::4], BATCHES[::2]) if options.quick else (WIDTHS, BATCHES)
    for width, batch_size, job in product(widths, batches, ("adam", "forward")):
        n_batches = min(max(1, 2**18 // (width * batch_size)), 64) if job == "adam" else 1
        yield Problem((width, width, width, 10), batch_size, job, n_batches=n_batches)


def thread_counts(most: int) -> list[int]:
    """Return 1, 2, 4 … and the most."""
    return sorted({most, *(2**power for power in range(most.bit_length()) if 2**power <= most)})


def cases(options: Options) -> Iterator[Case]:
    """Return a line for each problem, of growing limits."""
    for problem, n in product(problems(options), thread_counts(options.threads)):
        name = f"{n} thread{'s' * (n > 1)}"
        if problem.trains:
            make = fm.Adam if problem.job == "adam" else fm.SGD
            rate = problem.learning_rate
            yield fit_case(str(problem), name, problem, n, lambda make=make, rate=rate: make(rate))
        else:
            yield call_case(str(problem), name, problem, n)


def test_threads(case: Case, bench: Callable[[Case], None]) -> None:
    """Time a limit of the threads."""
    bench(case)

"""No shape is slow: neighbouring widths and batches take the same time per operation."""

from collections.abc import Callable, Iterator
from itertools import product

from fastmlp.benchmarks.calls import call_case, fit_case
from fastmlp.benchmarks.measuring import Case, Options
from fastmlp.benchmarks.problems import Problem

WIDTHS = {"narrow": range(40, 51), "wide": range(250, 261)}
BATCHES = (31, 32, 33, 127, 128, 129)

#: Bytes of all batches together: they stay in the cache, and an epoch has many steps.
DATA_BYTES = 2**20


def cases(options: Options) -> Iterator[Case]:
    """Return a case for each shape, on one thread."""
    step = 4 if options.small else 1
    batches = BATCHES[1::3] if options.small else BATCHES
    for kind, job in product(WIDTHS if options.timed else ["narrow"], ("sgd", "forward")):
        for width, batch_size in product(WIDTHS[kind][::step], batches):
            n_batches = max(1, DATA_BYTES // (4 * width * batch_size)) if job == "sgd" else 1
            sizes = (width, width, width, 10)
            problem = Problem(sizes, batch_size, job, n_batches=min(n_batches, 64))
            make = fit_case if job == "sgd" else call_case
            name, line = f"width {width}, batch {batch_size}", f"{kind} layers, {job}; 1 thread"
            yield make(line, name, problem, 1, width=width)


def test_shape(case: Case, bench: Callable[[Case], None]) -> None:
    """Time a shape."""
    bench(case)

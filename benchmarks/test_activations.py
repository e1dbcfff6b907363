"""Training steps with each activation."""

from collections.abc import Callable, Iterator

from fastmlp.benchmarks.calls import fit_case
from fastmlp.benchmarks.measuring import Case, Options
from fastmlp.benchmarks.problems import Problem
from fastmlp.kernels.catalogue import ACTIVATIONS


def cases(options: Options) -> Iterator[Case]:
    """Return a case for each activation, compared with the identity."""
    sizes, n_batches = ((256, 256, 256, 10), 4) if options.timed else ((16, 8, 10), 2)
    problem = Problem(sizes, 128, "sgd", n_batches=n_batches)
    for row in ACTIVATIONS:
        line = f"{'-'.join(map(str, sizes))}, SGD step, batch 128; 1 thread"
        yield fit_case(line, row.name, problem, 1, activation=row.name)


def test_activation(case: Case, bench: Callable[[Case], None]) -> None:
    """Time an activation."""
    bench(case)

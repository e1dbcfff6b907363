"""Batch sizes from one sample on: no size may be slow, in training or forward."""

from collections.abc import Callable, Iterator

from fastmlp.benchmarks.measuring import Case, Options, contest
from fastmlp.benchmarks.problems import MNIST, Problem

LINES_APART = True

BATCHES = (1, 2, 3, 4, 8, 16, 17, 32, 64, 128, 256)
SQUARE = (512, 512, 512, 10)

COMPETITORS = ("fastmlp", "NumPy in place", "PyTorch", "JAX")


def cases(options: Options) -> Iterator[Case]:
    """Return a line for each batch size, on one thread."""
    batches = BATCHES[::4] if options.small else BATCHES
    jobs = [(MNIST, "sgd"), (MNIST, "forward"), (SQUARE, "sgd"), (SQUARE, "forward")]
    for sizes, job in jobs[:2] if options.quick else jobs[:1] if options.small else jobs:
        others = ("ONNX Runtime",) if job == "forward" else ()
        for n in batches:
            if sizes == SQUARE and n > 17:
                continue
            problem = Problem(sizes, n, job, n_batches=1 if job == "forward" else 4)
            sweep = f"{'-'.join(map(str, sizes))}, {job}"
            yield from contest(options, problem, 1, (*COMPETITORS, *others), sweep=sweep)


def test_batch_size(case: Case, bench: Callable[[Case], None]) -> None:
    """Time a competitor."""
    bench(case)

"""One sample a call against other libraries, on one thread."""

from collections.abc import Callable, Iterator

from fastmlp.benchmarks.measuring import Case, Options, contest
from fastmlp.benchmarks.problems import CONTROL, MNIST, WIDE, Problem

LINES_APART = True

TRAINERS = ("fastmlp", "NumPy in place", "NumPy plain", "PyTorch", "JAX")


def cases(options: Options) -> Iterator[Case]:
    """Return the lines of control loops, of digits, and of weights that leave the cache."""
    jobs = [(CONTROL, "forward"), (CONTROL, "gradient"), (CONTROL, "sgd")]
    if not options.small:
        jobs += [(sizes, job) for sizes in (MNIST, WIDE) for job in ("forward", "sgd")]
    for sizes, job in jobs:
        others = ("scikit-learn", "ONNX Runtime") if job == "forward" else ()
        slow = ("PyTorch compiled",) if sizes == CONTROL and not options.quick else ()
        names = (*TRAINERS, *others, *slow)
        yield from contest(options, Problem(sizes, job=job, single=True), 1, names)


def test_single(case: Case, bench: Callable[[Case], None]) -> None:
    """Time a competitor."""
    bench(case)

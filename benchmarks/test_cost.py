"""What a gradient costs in forward passes: the lecture says two, over widths and batches."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from fastmlp.benchmarks.calls import call_case
from fastmlp.benchmarks.measuring import Case, Options
from fastmlp.benchmarks.problems import Problem

WIDTHS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
BATCH_SIZE = 128

JOBS = {
    "forward": "forward",
    "sgd": "forward + backward, applied by SGD",
    "gradient": "forward + backward, ∂W stored",
    "factored": "forward + backward, ∂W as factors",
}


def cases(options: Options) -> Iterator[Case]:
    """Return a line for each width, of one sample and of a batch; tanh, so nothing is skipped."""
    widths = (16, 64, 256, 512, 1024) if options.quick else WIDTHS
    for width in widths if options.timed else (16, 64):
        sizes = (width, width, width, 10)
        samples = {
            "one sample": Problem(sizes, activation="tanh", single=True, n_batches=1),
            f"batch {BATCH_SIZE}": Problem(sizes, BATCH_SIZE, activation="tanh", n_batches=1),
        }
        for what, problem in samples.items():
            jobs = JOBS if problem.single else {job: JOBS[job] for job in JOBS if job != "factored"}
            for job, name in jobs.items():
                line = f"{'-'.join(map(str, sizes))} tanh, {what}"
                notes = {"width": width, "samples": what, "job": job}
                yield call_case(line, name, replace(problem, job=job), 1, **notes)


def test_cost(case: Case, bench: Callable[[Case], None]) -> None:
    """Time a width."""
    bench(case)

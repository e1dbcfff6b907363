"""No shape is slow: python benchmarks/shapes.py [GROUP ...].

Time per operation of neighbouring shapes on one thread, and two threads against one for shapes
from tiny to large, with the threads that fastmlp chooses itself. Results are first compared
with the NumPy reference.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product
from statistics import median
from time import perf_counter, sleep

import numpy as np
from compare import fma_ceiling
from competitors import COMPETITORS
from problems import Problem

import fastmlp as fm

ROUNDS = 11
SECONDS_PER_ROUND = 0.004

#: What looks slower is measured again; small shapes run the same code on one thread each time.
ATTEMPTS = 3

#: OpenMP's threads spin for a few ms after a call, which slows a call on one thread.
SECONDS_BETWEEN = 0.01

#: Bytes of all batches together: they stay in the cache, and an epoch has many steps.
DATA_BYTES = 2**20

OPTIMIZERS = ("sgd", None)

WIDTHS = {"narrow": range(40, 51), "wide": range(250, 261)}
THREADS = {"training-threads": "adam", "forward-threads": None}
BATCHES = (range(31, 34), range(127, 130))

#: Time per operation may vary by so much among neighbours, and threads may cost so much.
LARGEST_RATIO, LARGEST_LOSS = 1.3, 1.05

GROWING_WIDTHS = (4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
GROWING_BATCHES = (1, 8, 32, 128, 1024)


@dataclass(frozen=True)
class Shape:
    """A problem that is ready to run.

    Parameters
    ----------
    problem : Problem
        What is run.
    run : callable
        Does so many steps.
    n_steps : int
        Steps of a round.
    """

    problem: Problem
    run: Callable[[int], None]
    n_steps: int

    @property
    def name(self) -> str:
        """Width and batch."""
        return f"{self.problem.sizes[0]} wide, batch {self.problem.batch_size}"

    def seconds_per_step(self) -> float:
        """Time one round."""
        began = perf_counter()
        self.run(self.n_steps)
        return (perf_counter() - began) / self.n_steps


def make_problem(width: int, batch_size: int, optimizer: str | None) -> Problem:
    """Describe a network of three layers, two of them square."""
    n_batches = min(max(1, DATA_BYTES // (4 * width * batch_size)), 256)
    sizes = (width, width, width, 10)
    return Problem(sizes, batch_size, optimizer=optimizer, n_batches=n_batches)


def prepare(problem: Problem) -> Shape:
    """Compare with the reference, then find out how many steps fill a round."""
    unit = 1 if problem.optimizer is None else problem.n_batches
    outputs = []
    for name in ("numpy", "fastmlp"):
        run, result = COMPETITORS[name](problem)
        run(unit)
        outputs.append(result())
    # As in compare.py: the loss does not see what all outputs have in common.
    reference, ours = (out - out.mean(axis=1, keepdims=True) for out in outputs)
    if not np.abs(ours - reference).max() <= 1e-3 * np.abs(reference).max():
        raise AssertionError(f"{problem.name}: not what the reference computes")
    began = perf_counter()
    run(unit)
    seconds = perf_counter() - began
    return Shape(problem, run, unit * max(1, round(SECONDS_PER_ROUND / seconds)))


def prepare_all(
    widths: Iterable[int], batches: Iterable[int], optimizer: str | None
) -> list[Shape]:
    """Prepare a problem for each width and batch."""
    return [prepare(make_problem(*shape, optimizer)) for shape in product(widths, batches)]


def print_neighbours(name: str) -> None:
    """Print the time per operation of every shape, and how much it varies."""
    fm.set_num_threads(1)
    for batches, optimizer in product(BATCHES, OPTIMIZERS):
        shapes = prepare_all(WIDTHS[name], batches, optimizer)
        rounds = [[shape.seconds_per_step() for shape in shapes] for _ in range(ROUNDS)]
        picoseconds = {
            (shape.problem.sizes[0], shape.problem.batch_size): 1e12
            * median(seconds)
            / shape.problem.flops
            for shape, seconds in zip(shapes, zip(*rounds, strict=True), strict=True)
        }
        job = f"{optimizer} step" if optimizer else "forward"
        print(f"\n{name}, {job}, 1 thread: ps per operation, ceiling {ceiling():.1f}")
        print(f"  {'width':>5}" + "".join(f"{f'batch {n}':>11}" for n in batches))
        for width in WIDTHS[name]:
            cells = "".join(f"{picoseconds[width, n]:11.2f}" for n in batches)
            print(f"  {width:5}{cells}")
        ratio = max(picoseconds.values()) / min(picoseconds.values())
        worst = sorted(picoseconds, key=picoseconds.__getitem__)[:-4:-1]
        listed = ", ".join(f"{width} wide in {n}" for width, n in worst)
        verdict = "" if ratio <= LARGEST_RATIO else f", above {LARGEST_RATIO}"
        print(f"  largest/smallest {ratio:.2f}{verdict}; slowest {listed}")


def ceiling() -> float:
    """Return the ps of an operation that the processor reaches at most, on one thread."""
    return 1e12 / fma_ceiling("float32", 1)


def seconds_by_threads(shape: Shape) -> tuple[float, float]:
    """Return the seconds of a step with at most one thread and with at most two."""
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(ROUNDS):
        for n_threads, values in seconds.items():
            fm.set_num_threads(n_threads)
            sleep(SECONDS_BETWEEN)
            shape.run(1 if shape.problem.optimizer is None else shape.problem.n_batches)
            values.append(shape.seconds_per_step())
    return min(seconds[1]), min(seconds[2])


def print_threads(name: str) -> None:
    """Print what a second thread gains, and the shapes for which it loses."""
    optimizer = THREADS[name]
    job = f"{optimizer} step" if optimizer else "forward"
    print(f"\n{job}: time on one thread / time on at most two")
    print(f"  {'width':>5}" + "".join(f"{f'batch {n}':>11}" for n in GROWING_BATCHES))
    slower = []
    for width in GROWING_WIDTHS:
        cells = ""
        for shape in prepare_all([width], GROWING_BATCHES, optimizer):
            for _ in range(ATTEMPTS):
                one, two = seconds_by_threads(shape)
                if two <= LARGEST_LOSS * one:
                    break
            else:
                slower.append(shape.name)
            cells += f"{one / two:11.2f}"
        print(f"  {width:5}{cells}", flush=True)
    print(f"  slower with two by more than 5 %: {'; '.join(slower) or 'none'}")


GROUPS: dict[str, Callable[[str], None]] = {
    **dict.fromkeys(WIDTHS, print_neighbours),
    **dict.fromkeys(THREADS, print_threads),
}


def main(names: list[str]) -> None:
    """Measure the groups of these names, or all."""
    unknown = set(names) - set(GROUPS)
    if unknown:
        sys.exit(f"GROUP must be one of {', '.join(GROUPS)}, got {', '.join(sorted(unknown))}")
    for name in names or GROUPS:
        GROUPS[name](name)


main(sys.argv[1:])

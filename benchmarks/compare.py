"""Measure competitors at one problem, in turn, and the ceiling of the processor beside them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter, sleep

import numpy as np
from problems import Problem

from fastmlp import kernels

__all__ = ["Timing", "compare", "fma_ceiling", "print_table"]

#: Steps after which all must have reached the same network, also the warm-up.
CHECKED_STEPS = 16
ROUNDS = 21
SECONDS_PER_ROUND = 0.05

#: Idle threads spin for a while, those of OpenBLAS for 0.1 s; the next one waits until they sleep.
SECONDS_BETWEEN = 0.25


@dataclass(frozen=True)
class Timing:
    """Seconds of a step.

    Parameters
    ----------
    median : float
        Of the rounds.
    spread : float
        Distance of the quartiles, as a share of the median.
    """

    median: float
    spread: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        """Summarise rounds."""
        low, middle, high = quantiles(seconds, n=4)
        return cls(middle, (high - low) / middle)


class Worker:
    """A competitor's process."""

    def __init__(self, name: str, problem: Problem, n_threads: int) -> None:
        # Some machines pin OpenBLAS to an older processor.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
        self.process = subprocess.Popen(
            [sys.executable, "-P", Path(__file__).with_name("worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment | {"PYTHONPATH": str(Path(__file__).parent)},
        )
        job = {"name": name, "problem": asdict(problem), "n_threads": n_threads}
        self.answer = self.ask(json.dumps(job | {"warm_up": CHECKED_STEPS}))

    def ask(self, line: str) -> dict | float:
        """Send a line and wait for the answer."""
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the worker ended with status {self.process.wait()}")
        return json.loads(answer)

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def fma_ceiling(dtype: str, n_threads: int) -> float:
    """Return the most operations a second, best of several short runs."""
    module = kernels.load_backend("cython")
    rates = []
    for _ in range(10):
        began = perf_counter()
        flops = module.multiply_add_registers(dtype == "float32", 1_000_000, n_threads)
        rates.append(flops / (perf_counter() - began))
    return max(rates)


def _check_outputs(outputs: dict[str, np.ndarray], dtype: str) -> None:
    """Raise if competitors have not reached the same outputs as the first."""
    tolerance = 1e-3 if dtype == "float32" else 1e-8
    centred = {name: out - out.mean(axis=1, keepdims=True) for name, out in outputs.items()}
    first, *others = centred
    for name in others:
        difference = np.abs(centred[name] - centred[first]).max()
        if not difference <= tolerance * np.abs(centred[first]).max():
            raise AssertionError(f"{name} and {first} differ by {difference:.2g}: not equal work")


def compare(
    problem: Problem, names: Sequence[str], n_threads: int
) -> tuple[dict[str, Timing], dict[str, str], float]:
    """Time a problem with each competitor, interleaved.

    Returns
    -------
    timings : dict
        By name.
    skipped : dict
        Reasons of those that cannot run here.
    ceiling : float
        Operations a second, measured between the rounds.
    """
    workers = {name: Worker(name, problem, n_threads) for name in names}
    skipped = {n: w.answer["skipped"] for n, w in workers.items() if "skipped" in w.answer}
    running = {name: worker for name, worker in workers.items() if name not in skipped}
    outputs = {name: np.array(worker.answer["outputs"]) for name, worker in running.items()}
    _check_outputs(outputs, problem.dtype)
    unit = problem.n_batches
    steps = {}
    for name, worker in running.items():
        seconds = min(worker.ask(str(unit)) for _ in range(3)) / unit
        steps[name] = unit * max(1, round(SECONDS_PER_ROUND / seconds / unit))
    seconds: dict[str, list[float]] = {name: [] for name in running}
    ceilings = []
    for _ in range(ROUNDS):
        ceilings.append(fma_ceiling(problem.dtype, n_threads))
        for name, worker in running.items():
            sleep(SECONDS_BETWEEN)
            worker.ask(str(unit))  # caches and clock come back from the pause
            seconds[name].append(worker.ask(str(steps[name])) / steps[name])
    for worker in workers.values():
        worker.close()
    timings = {name: Timing.of(values) for name, values in seconds.items()}
    return timings, skipped, median(ceilings)


def print_table(problem: Problem, n_threads: int, names: Sequence[str]) -> None:
    """Print a line for each competitor: time, spread, ratio to the first, % of the ceiling."""
    timings, skipped, ceiling = compare(problem, names, n_threads)
    threads = f"{n_threads} thread{'s' * (n_threads > 1)}"
    isa = kernels.instruction_set()
    print(f"\n{problem.name}; {threads}, {isa}, ceiling {ceiling / 1e9:.0f} GF/s")
    first = next(iter(timings.values()))
    for name, timing in timings.items():
        print(
            f"  {name:12} {timing.median * 1e6:10.1f} µs ±{100 * timing.spread:3.0f} %"
            f"  {timing.median / first.median:6.2f}×"
            f"  {100 * problem.flops / timing.median / ceiling:5.1f} %"
        )
    for name, reason in skipped.items():
        print(f"  {name:12} skipped: {reason}")

"""What the processor can do at most, measured between the rounds of the benchmarks."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cache
from math import log2
from time import perf_counter
from typing import Any

import numpy as np

from fastmlp import kernels
from fastmlp.kernels import arena

__all__ = [
    "Ceilings",
    "Work",
    "bandwidth",
    "fed_multiply_add_rate",
    "multiply_add_rate",
    "survey",
    "yardstick",
]

#: Rounds of 12 vectors of multiply-adds: half a millisecond.
FMA_STEPS = 300_000

#: Bytes that tiles are fed from: they fit the first cache of today's cores.
FED_BYTES = 24 * 2**10

#: Multiply-adds of one measurement of tiles, some milliseconds: the clock that it can hold.
FED_FMAS = 5e8

#: Bytes of one measurement of a bandwidth, a third of a millisecond from memory.
STREAMED_BYTES = 8 * 2**20

#: Arrays that fit the first and the second cache of today's cores, the third, and none.
LEVELS = {"L1": 2**14, "L2": 2**18, "L3": 2**23, "DRAM": 2**28}

#: Runs, of which the fastest counts: nothing makes a processor faster than it is.
ATTEMPTS = 5


@dataclass(frozen=True)
class Work:
    """What a step has to do, whoever does it.

    Parameters
    ----------
    flops : float
        Multiplications and additions of the matrix products.
    read, written : float
        Bytes, where every weight is touched as rarely as it can be.
    footprint : float
        Bytes that one step after the other touches again: they decide which cache counts.
    dtype : {"float32", "float64"}
        Type of the numbers.
    n_threads : int
        Threads that the step may use.
    """

    flops: float
    read: float
    written: float
    footprint: float
    dtype: str = "float32"
    n_threads: int = 1

    @property
    def moved(self) -> float:
        """Bytes read and written."""
        return self.read + self.written


def multiply_add_rate(dtype: str, n_threads: int) -> float:
    """Return the most operations a second that a number of threads reach in registers."""
    run = kernels.load_backend("cython").multiply_add_registers
    best = 0.0
    for _ in range(ATTEMPTS):
        began = perf_counter()
        flops = run(dtype == "float32", FMA_STEPS, n_threads)
        best = max(best, flops / (perf_counter() - began))
    return best


def fed_multiply_add_rate(dtype: str, n_threads: int) -> float:
    """Return the most operations a second of the kernels' full tile, fed from the first cache."""
    run = kernels.load_backend("cython").multiply_add_tiles
    numbers = arena.aligned_zeros(FED_BYTES // np.dtype(dtype).itemsize, dtype)
    numbers[:] = np.random.default_rng(0).standard_normal(len(numbers), dtype)
    steps = max(1, int(2 * FED_FMAS / run(numbers, 1)))
    best = 0.0
    for _ in range(ATTEMPTS):
        began = perf_counter()
        flops = run(numbers, steps, n_threads)
        best = max(best, flops / (perf_counter() - began))
    return best


def yardstick() -> float:
    """Return the seconds of 10⁹ multiply-adds in a number, from one run as long as a short round.

    Not from the fastest of some runs: what slows a core for a moment is to slow both. And on the
    first core, where all run that use one thread: each core has a clock of its own.
    """
    run = kernels.load_backend("cython").multiply_add_registers
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        began = perf_counter()
        flops = run(True, ATTEMPTS * FMA_STEPS, 1)
        return 2e9 * (perf_counter() - began) / flops
    finally:
        os.sched_setaffinity(0, cores)


@cache
def _touched(n_bytes: int) -> np.ndarray:
    # Vectors that lie across two cache lines would be read at half the rate.
    data = arena.aligned_zeros(n_bytes // 4, np.float32)
    data.fill(1)  # zeros may all share one page
    return data


def bandwidth(n_bytes: int, write: bool, n_threads: int) -> float:
    """Return the most bytes a second that are read, or read and written, in an array."""
    run = kernels.load_backend("cython").stream_memory
    data, repeats = _touched(n_bytes), max(1, STREAMED_BYTES // n_bytes)
    best = 0.0
    for _ in range(ATTEMPTS):
        began = perf_counter()
        moved = run(data, write, repeats, n_threads)
        best = max(best, moved / (perf_counter() - began))
    return best


@dataclass
class Ceilings:
    """The ceilings of one round, measured when they are asked for.

    Parameters
    ----------
    rates : dict, optional
        What has been measured in this round.
    """

    rates: dict[tuple, float] = field(default_factory=dict)

    def rate(self, *key: object) -> float:
        """Return ("fma", dtype, n_threads) or ("memory", n_bytes, write, n_threads)."""
        if key not in self.rates:
            kind, *arguments = key
            measure = multiply_add_rate if kind == "fma" else bandwidth
            self.rates[key] = measure(*arguments)
        return self.rates[key]

    def seconds(self, work: Work) -> dict[str, float]:
        """Return the least seconds that the arithmetic and the memory traffic of a step take."""
        n_bytes = 2 ** max(14, round(log2(max(work.footprint, 1))))
        memory = self.rate("memory", n_bytes, work.written > work.read / 4, work.n_threads)
        fma = self.rate("fma", work.dtype, work.n_threads)
        return {"FMA": work.flops / fma, "memory": work.moved / memory}


def survey(n_threads: int) -> dict[str, Any]:
    """Measure the ceilings of this machine, with half of each cache and with much memory.

    Parameters
    ----------
    n_threads : int
        Threads, each on its share of the array.

    Returns
    -------
    dict
        Operations a second by dtype, in registers and fed from L1, and bytes a second of
        reading, and of reading and writing, by level.
    """
    memory = {
        level: {
            "bytes": n_bytes,
            "read": bandwidth(n_bytes, False, n_threads),
            "read and write": bandwidth(n_bytes, True, n_threads),
        }
        for level, n_bytes in LEVELS.items()
    }
    return {
        kind: {dtype: measure(dtype, n_threads) for dtype in ("float32", "float64")}
        for kind, measure in (("registers", multiply_add_rate), ("L1", fed_multiply_add_rate))
    } | {"memory": memory}

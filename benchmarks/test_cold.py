"""Cold starts, each in a fresh process: the import, and the first training steps.

The first steps, an epoch, make the network and compile what is compiled.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

from fastmlp.benchmarks.competitors import COMPETITORS
from fastmlp.benchmarks.measuring import OWN, Case, Job, Options, Process, Skipped
from fastmlp.benchmarks.problems import CONTROL, Problem

LINES_APART = True

TRAINERS = (
    "fastmlp",
    "fastmlp numba",
    "NumPy plain",
    "scikit-learn",
    "PyTorch",
    "PyTorch compiled",
    "JAX",
)

PROBLEM = Problem(CONTROL, 32)

IMPORT = "from time import perf_counter; began = perf_counter()\n{}\nprint(perf_counter() - began)"


class Import:
    """An import in an interpreter that has imported nothing else."""

    def __init__(self, modules: tuple[str, ...]) -> None:
        self.code = IMPORT.format("\n".join(f"import {module}" for module in modules))

    def prepare(self) -> dict[str, Any]:
        """Import once, so that files are in memory."""
        self.run(1)
        return {}

    def run(self, n_steps: int, warm_up: int = 0) -> float:
        """Return the seconds."""
        command = [sys.executable, "-P", "-c", self.code]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise Skipped(result.stderr.splitlines()[-1])
        return float(result.stdout.splitlines()[-1])

    def close(self) -> dict[str, Any]:
        """Do nothing."""
        return {}


class FirstStep:
    """First training steps, and what was imported late for them."""

    def __init__(self, name: str) -> None:
        self.name = name

    def prepare(self) -> dict[str, Any]:
        """Run once, which also fills the caches of those that keep compiled code."""
        self.run(1)
        return {}

    def run(self, n_steps: int, warm_up: int = 0) -> float:
        """Return the seconds."""
        process = Process(self.name, PROBLEM, 1)
        try:
            return process.prepare()["first_call_seconds"]
        finally:
            process.close()

    def close(self) -> dict[str, Any]:
        """Do nothing."""
        return {}


def cold_case(line: str, name: str, open_job: Callable[[], Job], rounds: int) -> Case:
    """Return a case of few rounds, each of which takes long."""
    flags = {"own": name in OWN, "rival": name != "fastmlp"}
    return Case(line, name, open_job, rounds=rounds, long=True, **flags)


def cases(options: Options) -> Iterator[Case]:
    """Return a line for the imports and one for the first steps."""
    rounds = 2 if options.quick else 3
    slow = {"fastmlp numba", "PyTorch compiled"} if options.quick else set()
    names = [name for name in TRAINERS if options.peers or not COMPETITORS[name].peer]
    names = [name for name in names if name not in slow] if options.timed else names[:1]
    imports = [name for name in names if name != "PyTorch compiled"]
    for name in imports:
        modules = COMPETITORS[name].modules
        yield cold_case("import", name, lambda m=modules: Import(m), 3 * rounds)
    for name in names:
        line = f"first training steps after it, {PROBLEM}, an epoch of {PROBLEM.n_batches}"
        yield cold_case(line, name, lambda name=name: FirstStep(name), rounds)


def test_cold_start(case: Case, bench: Callable[[Case], None]) -> None:
    """Time a start."""
    bench(case)

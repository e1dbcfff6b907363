"""Seconds until a network has learnt the digits: the same data, order and first parameters."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from fastmlp.benchmarks.measuring import Case, Options, Process, contest
from fastmlp.benchmarks.problems import DIGITS, Problem

LINES_APART = True

#: Mean cross-entropy of the training data.
TARGET = 0.02

PROBLEM = Problem(DIGITS, 32, n_batches=44, digits=True)

TRAINERS = ("fastmlp", "NumPy in place", "NumPy plain", "scikit-learn", "PyTorch", "JAX")


class Reach(Process):
    """A training until the target; the network is made, and compiled, within the time."""

    #: Pixels that are nearly always white have gradients of the size of their rounding, which Adam
    #: makes as large as all others.
    tolerance = 0.02

    def run(self, n_steps: int, warm_up: int = 0) -> float:
        """Return the seconds of a training."""
        self.reached = self.ask("reach", TARGET)
        if self.reached["loss"] > TARGET:
            raise AssertionError(f"{self.name} reached {self.reached['loss']}, not {TARGET}")
        return self.reached["seconds"]

    def close(self) -> dict[str, Any]:
        """End it and say in how many epochs it got there."""
        return super().close() | getattr(self, "reached", {})


def cases(options: Options) -> Iterator[Case]:
    """Return a case for each library, on one thread."""
    network = f"{'-'.join(map(str, DIGITS))} relu"
    for case in contest(options, PROBLEM, 1, TRAINERS):
        yield replace(
            case,
            line=f"digits, {network}, Adam, batch 32, to a loss of {TARGET}",
            open=lambda name=case.name: Reach(name, PROBLEM, 1),
            work=None,
            rounds=3 if options.quick else 7,
            long=True,
        )


def test_target(case: Case, bench: Callable[[Case], None]) -> None:
    """Time a library."""
    bench(case)

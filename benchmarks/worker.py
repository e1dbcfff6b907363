"""One competitor in a process of its own: reads requests, answers with what they took.

The first line of standard input describes the job, each further one is a request; lines are
JSON, and so are the answers on the original standard output.
:mod:`~fastmlp.benchmarks.start` starts it.
"""

from __future__ import annotations

import json
import re
import sys
from importlib import import_module
from pathlib import Path
from time import perf_counter

import numpy as np

from .competitors import COMPETITORS, Competitor, Job
from .problems import Problem


def main() -> None:
    """Prepare the job, then do what is asked for."""
    job = json.loads(sys.stdin.readline())
    answers, sys.stdout = sys.stdout, sys.stderr

    def answer(value: object) -> None:
        print(json.dumps(value), file=answers, flush=True)

    competitor = COMPETITORS[job["name"]]
    problem = Problem(**job["problem"] | {"sizes": tuple(job["problem"]["sizes"])})
    try:
        task = Task(competitor, problem)
    except ImportError as error:
        return answer({"skipped": str(error)})
    except Exception as error:  # a compiler may be missing, or refuse
        return answer({"failed": f"{type(error).__name__}: {str(error).strip()[:300]}"})
    answer({"result": task.result().tolist(), "notes": task.notes})
    for line in sys.stdin:
        request, argument = json.loads(line)
        answer(getattr(task, request)(argument))
    return None


class Task:
    """A competitor at work on a problem.

    Parameters
    ----------
    competitor : Competitor
        The library.
    problem : Problem
        What to run; the first steps, by which equal work is checked, run at once.
    """

    def __init__(self, competitor: Competitor, problem: Problem) -> None:
        for module in competitor.modules:
            import_module(module)
        Path("/proc/self/clear_refs").write_text("5")  # the peak is to be that of what follows
        self.competitor, self.problem = competitor, problem
        before, began = _memory("VmRSS"), perf_counter()
        self.job: Job = competitor.make(problem)
        self.job.run(problem.unit)
        self.notes = {
            "first_call_seconds": perf_counter() - began,
            "peak_bytes": _memory("VmHWM") - before,
        }
        if rest := problem.checked_steps - problem.unit:
            self.job.run(rest)

    def result(self) -> np.ndarray:
        """Return the outputs for the first batch, or its gradient."""
        if self.problem.job == "gradient":
            return np.asarray(self.job.gradient())
        first = np.atleast_2d(self.problem.batches()[0][0])
        return np.atleast_2d(self.job.predict(first))

    def run(self, steps: tuple[int, int]) -> float:
        """Return the seconds of so many steps, after some to warm up."""
        n_steps, warm_up = steps
        if warm_up:
            self.job.run(warm_up)
        began = perf_counter()
        self.job.run(n_steps)
        return perf_counter() - began

    def reach(self, target: float) -> dict[str, float]:
        """Start afresh, train until the mean loss is the target, and say how long it took."""
        x, y = self.problem.samples()
        began = perf_counter()
        job = self.competitor.make(self.problem)
        seconds, epochs, loss = perf_counter() - began, 0, np.inf
        while not loss <= target and epochs < 1000:
            began = perf_counter()
            job.run(self.problem.n_batches)
            seconds += perf_counter() - began
            logits = job.predict(x).astype(np.float64)
            logits -= logits.max(axis=1, keepdims=True)
            chosen = logits[np.arange(len(y)), y]
            loss = np.mean(np.log(np.exp(logits).sum(axis=1)) - chosen)
            epochs += 1
        return {"seconds": seconds, "epochs": epochs, "loss": float(loss)}


def _memory(name: str) -> float:
    """Return the memory of this process in bytes: VmRSS now, VmHWM at its peak."""
    status = Path("/proc/self/status").read_text()
    return 1024.0 * int(re.search(rf"{name}:\s+(\d+) kB", status)[1])

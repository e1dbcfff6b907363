"""Cases, timed in turn between measurements of the ceilings.

Whoever is compared is measured in the same rounds: one round after the other, each case once in
each. What disturbs the machine for a while then disturbs all of them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from math import ceil
from pathlib import Path
from statistics import median, quantiles
from threading import Timer
from time import perf_counter, sleep
from typing import Any, Protocol

import numpy as np

import fastmlp as fm

from .ceilings import Ceilings, Work, yardstick
from .competitors import COMPETITORS
from .problems import Problem

__all__ = [
    "LONG",
    "OWN",
    "Call",
    "Case",
    "Failed",
    "Job",
    "Measurement",
    "Options",
    "Process",
    "Skipped",
    "agree",
    "contest",
    "measure",
    "outcome",
    "quartiles",
    "spread",
]

#: fastmlp itself: what does not run there is an error.
OWN = tuple(name for name in COMPETITORS if name.startswith("fastmlp"))

#: What starts a worker, on the cores whose numbers it is given.
START = Path(__file__).with_name("start.py")

#: How the names of variables begin that workers must not find set: they choose threads, cores or
#: instruction sets. Some machines pin OpenBLAS to an older processor.
FORBIDDEN = ("OPENBLAS_", "OMP_", "GOMP_", "KMP_", "MKL_", "XLA_", "ONEDNN_")

#: What workers find set, so that no process has better or worse luck with its memory than another.
#: glibc would give large arrays back to the system and take them again page by page, in some
#: processes and not in others: one step of PyTorch took 4.8 or 11 ms. Large pages spare the
#: processor the search for small ones; NumPy asks for them if an array is large.
ENVIRONMENT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "THP_MEM_ALLOC_ENABLE": "1",  # PyTorch's own
}

#: Threads that measured a ceiling spin for a while before they sleep.
SETTLING = 0.02

#: A process that takes longer to get ready is given up.
PATIENCE = 120.0

#: Where a step takes longer, in seconds, several processes share the rounds: of large arrays, one
#: process has its memory in places that are up to 20 % better than those of the next.
LONG = 1e-3

#: Largest difference of results that did the same work, as a share of the largest result.
TOLERANCE = {"float32": 1e-3, "float64": 1e-8}


class Skipped(Exception):  # noqa: N818
    """A competitor cannot run here; the text says why."""


class Failed(Exception):  # noqa: N818
    """A competitor's process has ended, or has said that it cannot go on."""


@dataclass(frozen=True)
class Options:
    """What the user asked for.

    Parameters
    ----------
    peers : bool
        Whether to measure other libraries than NumPy.
    quick : bool
        Whether to measure less, and less often.
    timed : bool
        Whether times are wanted; otherwise each case runs once, as a test.
    threads : int
        Most threads of a step.
    """

    peers: bool
    quick: bool
    timed: bool
    threads: int

    @property
    def small(self) -> bool:
        """Whether a few cases are enough."""
        return self.quick or not self.timed

    @property
    def thread_counts(self) -> tuple[int, ...]:
        """One thread, and the most."""
        return (1,) if self.threads == 1 or not self.timed else (1, self.threads)

    @property
    def rounds(self) -> int:
        """How often each case is timed."""
        return 31

    @property
    def processes(self) -> int:
        """How many processes, one after the other, share the rounds of a long step."""
        return 1 if self.quick else 4

    @property
    def seconds(self) -> float:
        """How long a timing takes at least."""
        return 0.0015 if self.quick else 0.006


class Job(Protocol):
    """Something that can be timed."""

    def prepare(self) -> Mapping[str, Any]:
        """Check its results, warm up, and return what there is to know about it."""

    def run(self, n_steps: int, warm_up: int = 0) -> float:
        """Return the seconds of so many steps, after some to warm up."""

    def close(self) -> Mapping[str, Any]:
        """End it and return what there is to know afterwards."""


@dataclass(frozen=True, eq=False)
class Case:
    """One line of a table.

    Parameters
    ----------
    line : str
        The task; its first case is the one that others are compared with.
    name : str
        Who does it, or how.
    open : callable
        Starts the job.
    work : Work, optional
        What a step has to do, for the share of the ceiling.
    unit : int
        Steps come in multiples of this.
    rounds : int, optional
        Rounds, if not those of the options.
    long : bool
        Whether a round is one unit of steps, however short it is wanted.
    processes : int
        Jobs, one after the other, that share the rounds if a step of the line's first case takes
        longer than :data:`LONG`.
    notes : dict
        More about the case, for tables and plots.
    own : bool
        Whether it is fastmlp that is measured.
    rival : bool
        Whether the line's first case should be faster.
    """

    line: str
    name: str
    open: Callable[[], Job]
    work: Work | None = None
    unit: int = 1
    rounds: int | None = None
    long: bool = False
    processes: int = 1
    notes: Mapping[str, Any] = field(default_factory=dict)
    own: bool = True
    rival: bool = False

    def __str__(self) -> str:
        return f"{self.line}: {self.name}"


@dataclass
class Measurement:
    """What a case took.

    Parameters
    ----------
    seconds : list of float
        Of a step, in each round.
    floors : list of dict
        Least seconds that the ceilings of that round allow, by "FMA" and "memory".
    yardsticks : list of float
        Seconds of 10⁹ multiply-adds in registers, in each round.
    notes : dict
        More about the case.
    """

    seconds: list[float] = field(default_factory=list)
    floors: list[dict[str, float]] = field(default_factory=list)
    yardsticks: list[float] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)

    def floor(self) -> tuple[str, float] | None:
        """Return the bound that counts and its seconds, the median of the rounds."""
        if not self.floors:
            return None
        middle = {name: median(each[name] for each in self.floors) for name in self.floors[0]}
        return max(middle.items(), key=lambda item: item[1])


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Return the quartiles, which are all the same of one value."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return low, middle, high


def spread(seconds: list[float]) -> float:
    """Return the distance of the quartiles as a share of the median."""
    low, middle, high = quartiles(seconds)
    return (high - low) / middle


def agree(
    results: Iterable[np.ndarray],
    expected: Iterable[np.ndarray],
    who: str,
    tolerance: float | None = None,
) -> None:
    """Raise if arrays differ by more than rounding does after some steps."""
    for result, reference in zip(results, expected, strict=True):
        if result.shape != reference.shape:
            raise AssertionError(f"{who} has shape {result.shape}, expected {reference.shape}")
        difference = np.abs(result - reference).max(initial=0)
        largest = np.abs(reference).max(initial=0)
        share = tolerance or TOLERANCE[str(reference.dtype)]
        if not difference <= share * max(largest, 1e-30):
            raise AssertionError(f"{who} is off by {difference:.2g} of {largest:.2g}")


# --- Jobs ---------------------------------------------------------------------------------


class Call:
    """A call in this process, on the Cython backend.

    Parameters
    ----------
    call : callable
        What to time.
    check : callable
        Raises AssertionError if the results are wrong.
    n_threads : int
        Limit of fastmlp's threads.
    step : int
        Steps that one call does.
    """

    def __init__(
        self, call: Callable[[], Any], check: Callable[[], Any], n_threads: int = 1, step: int = 1
    ) -> None:
        self.call, self.check, self.n_threads, self.step = call, check, n_threads, step

    def prepare(self) -> dict[str, Any]:
        """Check."""
        fm.set_num_threads(self.n_threads)
        self.check()
        return {}

    def run(self, n_steps: int, warm_up: int = 0) -> float:
        """Return the seconds of so many steps, after some to warm up."""
        fm.set_num_threads(self.n_threads)
        call, n_calls = self.call, n_steps // self.step
        for _ in range(warm_up // self.step):
            call()
        began = perf_counter()
        for _ in range(n_calls):
            call()
        return perf_counter() - began

    def close(self) -> dict[str, Any]:
        """Do nothing."""
        return {}


class Process:
    """A competitor in a process of its own, stopped while it is not asked for anything.

    Idle threads spin for a while, those of OpenBLAS for 0.1 s: stopped ones do not.

    Parameters
    ----------
    name : str
        One of :data:`~fastmlp.benchmarks.competitors.COMPETITORS`.
    problem : Problem
        What it does.
    n_threads : int
        Cores that it may use.
    environment : mapping, default=ENVIRONMENT
        Variables that it finds set, beside those of this process.
    """

    #: Of its results, where it is not that of :data:`TOLERANCE`.
    tolerance: float | None = None

    def __init__(
        self,
        name: str,
        problem: Problem,
        n_threads: int,
        environment: Mapping[str, str] = ENVIRONMENT,
    ) -> None:
        self.name, self.problem = name, problem
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(FORBIDDEN)}
        cores = sorted(os.sched_getaffinity(0))[:n_threads]
        self.process = subprocess.Popen(
            [sys.executable, "-P", START, *map(str, cores)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=inherited | environment,
        )
        self._send({"name": name, "problem": asdict(problem)})

    def _send(self, request: object) -> None:
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()

    def _receive(self) -> Any:
        """Return its answer; afterwards it rests."""
        alarm = Timer(PATIENCE, self.process.kill)
        alarm.start()
        try:
            answer = self.process.stdout.readline()
        finally:
            alarm.cancel()
        if not answer:
            raise Failed(f"{self.name}: the process ended with status {self.process.wait()}")
        self.process.send_signal(signal.SIGSTOP)
        return json.loads(answer)

    def ask(self, request: str, argument: object = None) -> Any:
        """Have the worker do something and return its answer."""
        self._send([request, argument])
        self.process.send_signal(signal.SIGCONT)
        return self._receive()

    def prepare(self) -> dict[str, Any]:
        """Wait until it is ready, and compare its results with the reference."""
        answer = self._receive()
        if "skipped" in answer:
            raise Skipped(answer["skipped"])
        if "failed" in answer:
            raise Failed(f"{self.name}: {answer['failed']}")
        result = _centred(np.array(answer["result"], self.problem.dtype), self.problem)
        agree([result], [_expected(self.problem)], self.name, self.tolerance)
        return answer["notes"]

    def run(self, n_steps: int, warm_up: int = 0) -> float:
        """Return the seconds of so many steps, after some to warm up."""
        return self.ask("run", [n_steps, warm_up])

    def close(self) -> dict[str, Any]:
        """End the process."""
        self.process.stdin.close()
        self.process.send_signal(signal.SIGCONT)
        self.process.wait()
        self.process.stdout.close()
        return {}


def _centred(result: np.ndarray, problem: Problem) -> np.ndarray:
    """Take from logits what all of a row have in common, which the loss does not see."""
    if problem.job == "gradient" or problem.loss != "cross_entropy":
        return result
    return result - result.mean(axis=1, keepdims=True)


@cache
def _expected(problem: Problem) -> np.ndarray:
    """Return what the reference reaches in the same steps."""
    with fm.use_backend("numpy"):
        job = COMPETITORS["NumPy plain"].make(problem)
        job.run(problem.checked_steps)
        if problem.job == "gradient":
            return np.asarray(job.gradient())
        return _centred(job.predict(np.atleast_2d(problem.batches()[0][0])), problem)


def contest(
    options: Options, problem: Problem, n_threads: int, names: Iterable[str], **notes: Any
) -> list[Case]:
    """Return the cases of competitors at one problem, each in a process of its own."""
    threads = f"{n_threads} thread{'s' * (n_threads > 1)}"
    return [
        Case(
            f"{problem}; {threads}",
            name,
            lambda name=name: Process(name, problem, n_threads),
            problem.work(n_threads),
            unit=problem.unit,
            notes={"problem": str(problem), "batch_size": problem.batch_size} | notes,
            rounds=options.rounds // 3 if options.quick else options.rounds * 2 // 3,
            processes=options.processes,
            own=name in OWN,
            rival=name != "fastmlp",
        )
        for name in names
        if options.peers or not COMPETITORS[name].peer
    ]


# --- Rounds -------------------------------------------------------------------------------


def measure(
    cases: list[Case], options: Options, tick: Callable[[float], Any] = lambda share: None
) -> dict[Case, Measurement | Exception]:
    """Time cases in turn.

    Parameters
    ----------
    cases : list of Case
        Those that are compared.
    options : Options
        How often and how long.
    tick : callable, optional
        Told the share of the work that has been done since it was called last.

    Returns
    -------
    dict
        By case; the exception where it cannot run, or did something else than it should.
    """
    jobs: dict[Case, Job] = {}
    found: dict[Case, Measurement | Exception] = {}
    try:
        steps = _start(cases, jobs, found, options)
        rounds = max((case.rounds or options.rounds for case in steps), default=0)
        for index in range(rounds):
            if ending := [case for case in steps if _ends(case, index, cases, found, options)]:
                _close(ending, jobs, found)
                steps = {case: n for case, n in steps.items() if case not in ending}
                steps |= _start(ending, jobs, found, options)
            active = [case for case in steps if index < (case.rounds or options.rounds)]
            _measure_ceilings(active, found)
            for case in active:
                try:
                    # Caches and clock come back from what ran before.
                    taken = jobs[case].run(steps[case], 0 if case.long else case.unit)
                except Exception as error:
                    found[case] = outcome(case, error)
                    del steps[case]
                else:
                    found[case].seconds.append(taken / steps[case])
            tick(1 / rounds)
        if not rounds:
            tick(1)
    finally:
        _close(list(jobs), jobs, found)
    return found


def _start(
    cases: list[Case], jobs: dict[Case, Job], found: dict[Case, Any], options: Options
) -> dict[Case, int]:
    """Start jobs, and return the steps that fill a round of those that can run."""
    for case in cases:  # processes start at the same time
        jobs[case] = case.open()
    for case in cases:
        try:
            notes = dict(case.notes) | dict(jobs[case].prepare())
        except Exception as error:
            found[case] = outcome(case, error)
        else:
            found.setdefault(case, Measurement(notes=notes))
    steps = {}
    for case in cases:
        if isinstance(found[case], Measurement):
            try:
                steps[case] = _steps(case, jobs[case], options)
            except Exception as error:
                found[case] = outcome(case, error)
    return steps


def outcome(case: Case, error: Exception) -> Exception:
    """Return what is told of a case that cannot go on: of others, a failure is a reason to skip.

    Parameters
    ----------
    case : Case
        The case.
    error : Exception
        What its job has raised.

    Returns
    -------
    Exception
        The error, or :class:`Skipped`.
    """
    return Skipped(str(error)) if isinstance(error, Failed) and not case.own else error


def _ends(
    case: Case, index: int, cases: list[Case], found: dict[Case, Any], options: Options
) -> bool:
    """Return whether another job is to run a case from a round on."""
    rounds = case.rounds or options.rounds
    if not 0 < index < rounds or index % ceil(rounds / case.processes):
        return False
    first = found[next(other for other in cases if other.line == case.line)]
    if not isinstance(first, Measurement):
        return False
    return median(first.seconds[: ceil(rounds / case.processes)]) > LONG


def _close(cases: list[Case], jobs: dict[Case, Job], found: dict[Case, Any]) -> None:
    """End jobs, and note what they say about themselves."""
    for case in cases:
        notes = jobs.pop(case).close()
        if isinstance(found.get(case), Measurement):
            found[case].notes |= notes


def _steps(case: Case, job: Job, options: Options) -> int:
    """Return how many steps of a case fill a round."""
    if case.long:
        return case.unit
    seconds = min(job.run(case.unit) for _ in range(3)) / case.unit
    return case.unit * max(1, round(options.seconds / seconds / case.unit))


def _measure_ceilings(cases: list[Case], to: Mapping[Case, Any]) -> None:
    """Measure the yardstick and the ceilings of the cases of a round."""
    ceilings, standard = Ceilings(), yardstick()
    for case in cases:
        to[case].yardsticks.append(standard)
        if case.work is not None:
            to[case].floors.append(ceilings.seconds(case.work))
    if any(case.work is not None and case.work.n_threads > 1 for case in cases):
        sleep(SETTLING)

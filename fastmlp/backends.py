"""Which kernels run, and on how many threads.

The default backend and the thread count are the only mutable globals of fastmlp.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import monotonic
from types import ModuleType

import numpy as np

from . import kernels
from ._validation import check_integer, check_real, look_up
from .text import aligned_table

__all__ = [
    "WORK_PER_THREAD",
    "config",
    "current_kernels",
    "get_backend",
    "get_num_threads",
    "set_backend",
    "set_num_threads",
    "show_config",
    "threads_for",
    "use_backend",
]

#: Floating-point operations of a call for each thread: about 25 µs of one core. Measured, on two
#: cores: a forward pass of 10⁷ operations through 784-256-128-10 takes 57 µs with one thread and 40
#: with two, through 17-64-64-6 84 and 45; a gradient 82 and 72, 105 and 80. Training steps ask for
#: more: see Layout.exchange; or for less: see EXCHANGING_PARTS.
WORK_PER_THREAD = 5e6

#: Threads that have had no work for so many seconds may sleep. To wake them takes 0.1 to 0.3 ms, so
#: that WAKING times the work is needed.
PAUSE = 3e-3
WAKING = 4.0

#: Most threads that may be asked for: OpenMP ends the process when it cannot make them.
MAX_THREADS = 1024

BACKENDS = {name: name for name in kernels.BACKENDS}


@dataclass(frozen=True)
class Threads:
    """How many threads a call may use.

    Parameters
    ----------
    n : int
        Upper limit.
    work_per_thread : float, default=WORK_PER_THREAD
        Floating-point operations of a call for each thread.
    """

    n: int
    work_per_thread: float = WORK_PER_THREAD

    @cached_property
    def serial_work(self) -> float:
        """Operations from which on a call may use several threads."""
        return math.inf if self.n == 1 else 2 * self.work_per_thread


class Calls(threading.local):
    """When a Python thread, which has a team of its own, last had work for several threads.

    Parameters
    ----------
    last : float
        Seconds of :func:`time.monotonic`.
    """

    last = -math.inf


def usable_cores() -> int:
    """Return the cores that this process may use: its affinity and its cgroup's quota.

    Returns
    -------
    int
        At least 1.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return min(cores, max(1, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup v2, or the quota is "max"
        return cores


def _default_threads() -> Threads:
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    cores = usable_cores()
    return Threads(min(cores, int(wanted)) if wanted.isdecimal() and int(wanted) else cores)


_default_backend = "cython" if kernels.has_compiled_kernels() else "numba"
_backend_in_context: ContextVar[str | None] = ContextVar("fastmlp_backend", default=None)
_threads = _default_threads()
_calls = Calls()
_forked = False


def _after_fork() -> None:
    """Keep a forked child to one thread: OpenMP's threads did not survive the fork."""
    global _threads, _forked
    _threads, _forked = Threads(1), True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# --- Backend ------------------------------------------------------------------------------


def _load(name: str) -> str:
    """Return the name of a backend that exists and loads."""
    kernels.load_backend(look_up("backend", name, BACKENDS))
    return name


def set_backend(name: str) -> None:
    """Choose the backend of every call that follows, in all threads.

    Parameters
    ----------
    name : {"cython", "numba", "numpy"}
        Compiled kernels (the default where they are installed), kernels that Numba
        compiles at first use, or the NumPy reference.

    Raises
    ------
    ValueError
        If there is no backend of that name.
    ImportError
        If this installation lacks it.
    """
    global _default_backend
    _default_backend = _load(name)


def get_backend() -> str:
    """Return the name of the backend that a call would use here.

    Returns
    -------
    str
        The one of the surrounding :func:`use_backend`, else of :func:`set_backend`.
    """
    return _backend_in_context.get() or _default_backend


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Use a backend inside a ``with`` block, in this thread or task only.

    Parameters
    ----------
    name : {"cython", "numba", "numpy"}
        Name of the backend.

    Yields
    ------
    None
        Nothing.

    Raises
    ------
    ValueError
        If there is no backend of that name.
    ImportError
        If this installation lacks it.
    """
    token = _backend_in_context.set(_load(name))
    try:
        yield
    finally:
        _backend_in_context.reset(token)


def current_kernels() -> ModuleType:
    """Return the module of kernels that a call uses here.

    Returns
    -------
    module
        Has every kernel of :mod:`fastmlp.kernels.reference`.
    """
    return kernels.load_backend(_backend_in_context.get() or _default_backend)


# --- Threads ------------------------------------------------------------------------------


def set_num_threads(n: int, work_per_thread: float = WORK_PER_THREAD) -> None:
    """Limit the threads of every call that follows; results do not depend on it.

    A call uses one thread for each `work_per_thread` floating-point operations, so
    small networks stay on one. Training steps, in which threads exchange weights, take up to
    four times as many for each, or fewer in :meth:`MLP.fit` where the network is narrow. Single
    calls take four times as many after a pause in which threads have gone to sleep. The limit at
    start is the number of cores that the process may use, or ``OMP_NUM_THREADS`` if that is
    smaller. The NumPy backend is not concerned: NumPy's BLAS has its own setting. A forked child
    always runs one.

    Parameters
    ----------
    n : int
        Most threads of a call, from 1 to 1024; may exceed the cores.
    work_per_thread : float, default=5e6
        Operations (an addition and a multiplication are two) that justify a thread;
        0 uses all `n` threads whatever the size, for tests.

    Raises
    ------
    TypeError, ValueError
        If `n` is not an integer from 1 to 1024 or `work_per_thread` is negative.
    """
    global _threads
    threads = Threads(
        check_integer("n", n, minimum=1),
        check_real("work_per_thread", work_per_thread, "[0, inf)"),
    )
    if threads.n > MAX_THREADS:
        raise ValueError(f"n must be at most {MAX_THREADS} threads, got {n}")
    if _forked and threads.n > 1:
        warnings.warn(
            f"set_num_threads({n}): a forked process runs kernels on one thread; start "
            "processes with 'spawn' or 'forkserver' to use more",
            RuntimeWarning,
            stacklevel=2,
        )
        return
    _threads = threads


def get_num_threads() -> int:
    """Return the most threads that a call may use.

    Returns
    -------
    int
        At least 1.
    """
    return _threads.n


def threads_for(work: float, repeats: int = 1, pieces: float = math.inf) -> int:
    """Return the threads of a call.

    Parameters
    ----------
    work : float
        Floating-point operations that threads share before they meet again.
    repeats : int, default=1
        How often they do so in the call.
    pieces : float, default=inf
        Threads that would find something to do.

    Returns
    -------
    int
        From 1 to :func:`get_num_threads`.
    """
    threads = _threads
    if work < threads.serial_work:
        return 1
    began = monotonic()
    paused, _calls.last = began > _calls.last + PAUSE, began
    useful = min(work, work * repeats / WAKING) if paused else work
    useful = min(useful, pieces * threads.work_per_thread)
    if useful >= threads.n * threads.work_per_thread:
        return threads.n
    return max(1, int(useful / threads.work_per_thread))


def serial_work() -> float:
    """Return below how much work a call runs the compiled kernels on one thread.

    Returns
    -------
    float
        Floating-point operations; 0 where another backend is in use.
    """
    if (_backend_in_context.get() or _default_backend) != "cython":
        return 0.0
    return _threads.serial_work


# --- Report -------------------------------------------------------------------------------


def config() -> dict[str, str | int]:
    """Describe this installation and its settings.

    Returns
    -------
    dict
        What :func:`show_config` prints, by name.
    """
    from importlib.metadata import version

    compiled = kernels.has_compiled_kernels()
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {
        "fastmlp": version("fastmlp"),
        "backend": get_backend(),
        "instruction set": kernels.instruction_set() if compiled else "no compiled kernels",
        "available sets": ", ".join(kernels.instruction_sets()) if compiled else "none",
        "threads": get_num_threads(),
        "OpenMP": "yes" if compiled and kernels.has_openmp() else "no",
        "usable cores": usable_cores(),
        "Python": sys.version.split()[0],
        "NumPy": np.__version__,
        "BLAS of NumPy": f"{blas['name']} {blas['version']}",
        "Numba": version("numba"),
    }


def show_config() -> None:
    """Print the version, backend, instruction set, threads and the BLAS of NumPy."""
    table = aligned_table([[name, str(value)] for name, value in config().items()])
    sys.stdout.write(f"{table}\n")

"""Choice of backend and threads."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import warnings
from pathlib import Path

import pytest

import fastmlp as fm
from fastmlp import backends


@pytest.fixture(autouse=True)
def _restored(monkeypatch):
    """Put the globals back after each test."""
    for name in ("_default_backend", "_threads", "_forked"):
        monkeypatch.setattr(backends, name, getattr(backends, name))


def test_default_is_the_fastest_that_is_installed():
    compiled = fm.kernels.has_compiled_kernels()
    assert fm.get_backend() == ("cython" if compiled else "numba")


def test_set_backend():
    fm.set_backend("numpy")
    assert fm.get_backend() == "numpy"
    assert backends.current_kernels() is fm.kernels.load_backend("numpy")


def test_use_backend_ends_with_its_block_and_may_be_nested(backend):
    before = fm.get_backend()
    with fm.use_backend(backend):
        assert fm.get_backend() == backend
        with pytest.raises(RuntimeError, match="inner"), fm.use_backend("numpy"):  # noqa: PT012
            assert fm.get_backend() == "numpy"
            raise RuntimeError("inner")
        assert fm.get_backend() == backend
    assert fm.get_backend() == before


def test_use_backend_concerns_its_own_thread_only():
    before, seen = fm.get_backend(), []
    with fm.use_backend("numpy"):
        thread = threading.Thread(target=lambda: seen.append(fm.get_backend()))
        thread.start()
        thread.join()
    assert seen == [before]


@pytest.mark.parametrize("choose", [fm.set_backend, lambda name: fm.use_backend(name).__enter__()])
def test_unknown_backends_are_refused(choose):
    with pytest.raises(ValueError, match=r"backend must be one of 'cython', .*nearest: 'numba'"):
        choose("nunba")


def test_set_num_threads():
    fm.set_num_threads(5)
    assert fm.get_num_threads() == 5


@pytest.fixture
def clock(monkeypatch):
    """Seconds that :func:`time.monotonic` tells, in a list of one; the threads are awake."""
    seconds = [1000.0]
    monkeypatch.setattr(backends, "monotonic", lambda: seconds[0])
    monkeypatch.setattr(backends._calls, "last", seconds[0])
    return seconds


@pytest.mark.parametrize(
    ("work", "expected"), [(0, 1), (5e6, 1), (9.9e6, 1), (1e7, 2), (1.7e7, 3), (1e12, 4)]
)
def test_threads_grow_with_the_work(clock, work, expected):
    fm.set_num_threads(4)
    assert backends.threads_for(work) == expected


@pytest.mark.parametrize(
    ("pause", "repeats", "expected"), [(0.001, 1, 4), (0.004, 1, 1), (0.004, 3, 3), (0.004, 9, 4)]
)
def test_sleeping_threads_are_woken_for_more_work(clock, pause, repeats, expected):
    fm.set_num_threads(4)
    clock[0] += pause
    assert backends.threads_for(2.1e7, repeats) == expected


@pytest.mark.parametrize(
    ("layers", "n_samples", "expected"),
    [
        ([fm.Dense(5, 128)], 95, 1),
        ([fm.Dense(5, 128)], 96, 2),
        ([fm.Dense(5, 128)], 200, 4),
        ([fm.Dense(5, 129)], 96, 1),
        ([fm.Dense(5, 128, l2=1e-3)], 96, 1),
        ([fm.Dense(5, 128), fm.Dropout(0.5)], 96, 1),
    ],
)
def test_batches_of_narrow_networks_go_in_parts(layers, n_samples, expected):
    assert fm.MLP(layers).parameters.layout.parts(n_samples) == expected


def test_no_thread_is_called_for_nothing(clock):
    fm.set_num_threads(4)
    assert backends.threads_for(1e12, pieces=3) == 3
    fm.set_num_threads(4, work_per_thread=0)
    assert backends.threads_for(1e12, pieces=3) == 4


def test_threads_stay_awake_between_calls(clock):
    fm.set_num_threads(2)
    used = []
    for pause in (0.004, 0.002, 0.002, 0.004):
        clock[0] += pause
        used.append(backends.threads_for(1.1e7))
    assert used == [1, 2, 2, 1]


def test_threads_can_be_forced_on_small_work():
    fm.set_num_threads(7, work_per_thread=0)
    assert backends.threads_for(0) == 7
    fm.set_num_threads(7)
    assert backends.threads_for(0) == 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0,), ValueError, "n must be an integer of at least 1, got 0"),
        ((2.0,), TypeError, "n must be an integer of at least 1, got 2.0"),
        ((True,), TypeError, "n must be an integer of at least 1, got True"),
        ((1025,), ValueError, "n must be at most 1024 threads, got 1025"),
        ((2, -1), ValueError, r"work_per_thread must be a number in \[0, inf\), got -1"),
    ],
)
def test_wrong_thread_counts_are_refused(arguments, error, message):
    before = fm.get_num_threads()
    with pytest.raises(error, match=message):
        fm.set_num_threads(*arguments)
    assert fm.get_num_threads() == before


@pytest.mark.parametrize(
    ("value", "expected"),
    [("", 8), ("3", 3), ("3,2", 3), (" 2 ", 2), ("99", 8), ("0", 8), ("many", 8), ("-1", 8)],
)
def test_omp_num_threads_lowers_the_default(monkeypatch, value, expected):
    monkeypatch.setattr(backends, "usable_cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert backends._default_threads().n == expected


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system has no affinities")
@pytest.mark.parametrize(
    ("quota", "expected"), [("max 100000", 8), ("150000 100000", 2), ("10000 100000", 1), ("", 8)]
)
def test_affinity_and_quota_limit_the_cores(monkeypatch, quota, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(Path, "read_text", lambda _: quota)
    assert backends.usable_cores() == expected


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="only Linux places threads")
@pytest.mark.skipif(not fm.kernels.has_compiled_kernels(), reason="Numba places its own")
def test_threads_may_run_anywhere_after_they_have_been_woken():
    code = """
        import os, time, numpy as np, fastmlp as fm
        fm.set_num_threads(3, work_per_thread=0)
        net, x = fm.MLP.from_sizes([4, 5, 3], seed=0), np.ones((50, 4), np.float32)
        expected = net.forward(x)
        for _ in range(3):
            time.sleep(0.05)
            assert (net.forward(x) == expected).all()
        threads = [int(name) for name in os.listdir("/proc/self/task")]
        print(len(threads) > 2, len({frozenset(os.sched_getaffinity(t)) for t in threads}))
    """
    environment = {name: value for name, value in os.environ.items() if name != "OMP_PROC_BIND"}
    command = [sys.executable, "-P", "-c", textwrap.dedent(code)]
    process = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert process.stdout.split() == ["True", "1"], process.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_a_forked_child_runs_one_thread():
    fm.set_num_threads(3, work_per_thread=0)
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns of forks among threads
        child = os.fork()
    if child == 0:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fm.set_num_threads(4)
        answer = f"{fm.get_num_threads()} {backends.threads_for(1e12)} {len(caught)}"
        os.write(write, answer.encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 100) == b"1 1 1"
    assert fm.get_num_threads() == 3


def test_show_config_prints_what_config_returns(capsys):
    fm.set_num_threads(3)
    fm.show_config()
    lines = capsys.readouterr().out.splitlines()
    entries = backends.config()
    assert entries["fastmlp"] == fm.__version__
    assert entries["threads"] == 3
    assert [line.split("  ")[0] for line in lines] == list(entries)
    assert all(
        line.endswith(str(value)) for line, value in zip(lines, entries.values(), strict=True)
    )

"""What training allocates: nothing in a step, and in all what its data and parameters take.

Run as a script, this file is the process that is measured, and prints what it finds.
"""

from __future__ import annotations

import copy
import ctypes
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastmlp as fm
from fastmlp.kernels import load_backend

pytestmark = pytest.mark.parametrize("backend", ["cython"], indirect=True)

linux_only = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="counting and /proc are those of Linux with glibc"
)

#: Counts calls of the whole process, all threads; loaded before the C library.
COUNTER = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);

static long n_calls;
static void count(void) { __atomic_fetch_add(&n_calls, 1, __ATOMIC_RELAXED); }

long allocations(void) { return __atomic_load_n(&n_calls, __ATOMIC_RELAXED); }

void *malloc(size_t size) { return count(), __libc_malloc(size); }
void *calloc(size_t n, size_t size) { return count(), __libc_calloc(n, size); }
void *realloc(void *old, size_t size) { return count(), __libc_realloc(old, size); }
void *memalign(size_t step, size_t size) { return count(), __libc_memalign(step, size); }
void *aligned_alloc(size_t step, size_t size) { return memalign(step, size); }
int posix_memalign(void **out, size_t step, size_t size) {
    return (*out = memalign(step, size)) ? 0 : ENOMEM;
}
void *mmap(void *at, size_t size, int protection, int flags, int file, off_t offset) {
    return count(), (void *)syscall(SYS_mmap, at, size, protection, flags, file, offset);
}
"""

#: Steps of a short and of a long run.
FEW, MANY = 3, 40

#: What is trained: threads, samples of a batch, and the optimizer. Batches of 31 leave a tail.
RUNS = {
    "one thread": (1, 31, fm.SGD(0.01)),
    "two threads": (2, 31, fm.Adam()),
    "clipped and averaged": (2, 31, fm.Adam(clip_norm=1e-3, average=fm.ParameterAverage(0.9))),
    "single samples": (1, 1, fm.SGD(0.01, momentum=0.9)),
}

SIZES = [784, 1024, 1024, 10]
N_SAMPLES, BATCH_SIZE = 20_000, 128
MB = 2**20


# --- What is measured, in a process of its own --------------------------------------------


def count_allocations(
    backend: str, n_threads: int, batch_size: int, optimizer: fm.SGD | fm.Adam
) -> list[int]:
    """Return the allocations of a run of few and of a run of many steps."""
    rng = np.random.default_rng(0)
    counter = ctypes.CDLL(None).allocations
    counter.restype = ctypes.c_long
    net, optimizer = fm.MLP.from_sizes([50, 70, 30, 10], "tanh", seed=0), copy.copy(optimizer)
    n_samples = MANY * batch_size
    x = rng.normal(size=(n_samples, 50)).astype(np.float32)
    labels = rng.integers(10, size=n_samples)
    visits = {n: rng.permutation(n_samples)[: n * batch_size] for n in (FEW, MANY)}
    counts = {}
    for n_steps in (MANY, FEW, MANY):  # threads, and what they keep, come with the first run
        rule = optimizer.prepare(net.parameters, n_steps)
        arguments = (
            *net.kernel_arguments,
            rule.state,
            x,
            np.empty((0, 10), np.float32),
            labels,
            np.empty(0, np.float32),
            visits[n_steps],
            batch_size,
            *fm.CrossEntropy().arguments(10),
            rule.row.code,
            rule.coefficients,
            rule.averaging,
            rule.clip_value,
            rule.clip_norm,
            net.workspaces.gradient() if rule.clips else np.empty(0, np.float32),
            np.empty(n_steps),
            net.workspaces.training(batch_size, n_threads),
            n_threads,
        )
        train = load_backend(backend).network_train
        before = counter()
        train(*arguments)
        counts[n_steps] = counter() - before
    return [counts[FEW], counts[MANY]]


def resident(name: str) -> float:
    """Return the memory of this process in MB: VmRSS now, VmHWM at its peak."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{name}:\s+(\d+) kB", status)[1]) * 1024 / MB


def measure_peak() -> list[float]:
    """Return the peak of a training in MB, and what it should be."""
    rng = np.random.default_rng(0)
    small = fm.MLP.from_sizes([4, 3, 2], seed=0)  # loads what is imported late
    small.fit(rng.normal(size=(9, 4)), np.zeros(9, int), epochs=1, verbose=0)
    before = resident("VmRSS")
    x = rng.random((N_SAMPLES, SIZES[0]), np.float32)
    y = rng.integers(SIZES[-1], size=N_SAMPLES)
    net = fm.MLP.from_sizes(SIZES, seed=0)
    optimizer = fm.Adam()
    net.fit(x, y, optimizer=optimizer, epochs=1, batch_size=BATCH_SIZE, verbose=0, seed=0)
    parameters = 4 * net.n_parameters * (1 + len(optimizer.row.state))
    activations = 4 * BATCH_SIZE * (SIZES[0] + 2 * sum(SIZES[1:]))  # the batch, a and δ
    expected = x.nbytes + y.nbytes + parameters + activations
    return [resident("VmHWM") - before, expected / MB]


# --- Tests --------------------------------------------------------------------------------


def measured(*arguments: str, **environment: str) -> dict | list:
    """Run this file as a script and return what it prints."""
    command = [sys.executable, "-P", __file__, *arguments]
    result = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of a library that counts allocations."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler to build the counter with")
    folder = tmp_path_factory.mktemp("counter")
    source, library = folder / "counter.c", folder / "counter.so"
    source.write_text(COUNTER)
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", source, "-o", library], check=True)
    return str(library)


@linux_only
def test_steps_allocate_nothing(backend, counter):
    # Python's own objects are counted too if they come from malloc.
    environment = {"LD_PRELOAD": counter, "PYTHONMALLOC": "malloc"}
    counts = measured("allocations", **environment)
    for name in RUNS:
        few, many = counts[backend][name]
        assert few == many, name
        few, many = counts["numpy"][name]  # NumPy allocates in every step: the counter counts
        assert many - few >= MANY - FEW, name


@linux_only
def test_peak_memory_of_fit(backend):
    peak, expected = measured("peak")
    assert 0.9 * expected < peak < 1.1 * expected


def main() -> None:
    """Measure, and print what was found as JSON."""
    if sys.argv[1] == "peak":
        found = measure_peak()
    else:
        found = {
            backend: {name: count_allocations(backend, *run) for name, run in RUNS.items()}
            for backend in ("cython", "numpy")
        }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()

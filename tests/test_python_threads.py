"""Eight Python threads call one network: the bits of one thread, side by side without the GIL."""

from __future__ import annotations

import math
import sys
import threading
import time
from contextvars import copy_context

import numpy as np
import pytest

import fastmlp as fm
from fastmlp import backends, network, quick

N_THREADS = 8

#: Samples of a call: one and a few, which compiled kernels take quickly, and a batch.
N_SAMPLES = (1, 3, 40)


@pytest.fixture(params=["cython", "numba"])
def compiled(request, monkeypatch):
    """Use a backend whose kernels run without the GIL, on one thread for each call."""
    monkeypatch.setattr(backends, "_threads", fm.backends.Threads(1))
    try:
        with fm.use_backend(request.param):
            yield request.param
    except ImportError as error:
        pytest.skip(f"backend {request.param!r} does not load: {error}")


@pytest.fixture
def eager():
    """Have Python change threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def patient():
    """Have a thread keep the GIL until it gives it up itself."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    yield
    sys.setswitchinterval(before)


def outputs(net, x, y):
    return [net(x)]


def outputs_in_place(net, x, y):
    out = np.empty((*x.shape[:-1], net.n_out), x.dtype)
    assert net.forward(x, out) is out
    return [out]


def predictions(net, x, y):
    return [net.predict(x)]


def gradient(net, x, y):
    value, grad = net.value_and_grad(x, y)
    return [value, grad.arena]


def factors(net, x, y):
    value, grad = net.value_and_grad(x, y, factored=True)
    return [value, *grad.inputs, *grad.deltas]


CALLS = (outputs, outputs_in_place, predictions, gradient, factors)


def make_calls(n_samples):
    """Return a network that keeps kernels busy for a while, and the arguments of calls."""
    net = fm.MLP.from_sizes([100, 400, 400, 10], seed=0)
    rng = np.random.default_rng(1)
    X = rng.normal(size=(4 * N_THREADS, n_samples, 100)).astype(np.float32)
    y = rng.integers(10, size=(len(X), n_samples))
    if n_samples == 1:
        return net, [(x[0], int(label[0])) for x, label in zip(X, y, strict=True)]
    return net, list(zip(X, y, strict=True))


def run_together(work):
    """Run work(i) for i < N_THREADS in as many threads, which start at once.

    Each has a copy of the context, in which the backend is chosen.
    """
    barrier, errors = threading.Barrier(N_THREADS), []

    def run(index):
        try:
            barrier.wait()
            work(index)
        except BaseException as error:  # raised again below
            errors.append(error)

    threads = [
        threading.Thread(target=copy_context().run, args=(run, index)) for index in range(N_THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("n_samples", N_SAMPLES)
def test_the_bits_are_those_of_one_thread(compiled, eager, call, n_samples):
    net, arguments = make_calls(n_samples)
    call(net, *arguments[0])  # the next calls may be quick
    expected = [[np.copy(part) for part in call(net, *pair)] for pair in arguments]

    n_rounds = 60 if call in (outputs, outputs_in_place) and n_samples < 40 else 5

    def work(index):
        own, right = arguments[index::N_THREADS], expected[index::N_THREADS]
        for _ in range(n_rounds):
            results = [call(net, *pair) for pair in own]  # looked at after all of them
            for parts, right_parts in zip(results, right, strict=True):
                for part, right_part in zip(parts, right_parts, strict=True):
                    np.testing.assert_array_equal(part, right_part)

    run_together(work)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("n_samples", N_SAMPLES)
def test_results_have_memory_of_their_own(compiled, call, n_samples):
    net, arguments = make_calls(n_samples)
    call(net, *arguments[0])
    first = call(net, *arguments[0])
    before = [np.copy(part) for part in first]
    others = [call(net, *pair) for pair in arguments[1:3]]
    for part, other in zip(first, others[0], strict=True):
        assert np.ndim(part) == 0 or not np.shares_memory(part, other)
    for part, right in zip(first, before, strict=True):
        np.testing.assert_array_equal(part, right)


def step(net, x, y):
    return net.train_step(x, y, optimizer=OPTIMIZER)


OPTIMIZER = fm.SGD(0.1)


@pytest.mark.parametrize("call", [*CALLS, step])
@pytest.mark.parametrize("n_samples", [1, 16, 40])
def test_kernels_run_without_the_gil(compiled, patient, monkeypatch, call, n_samples):
    """A thread that waits gets the GIL before the kernel of the other one has ended."""
    for module in (network, quick):
        monkeypatch.setattr(module, "serial_work", lambda: math.inf if compiled == "cython" else 0)
    width = {1: 3000, 16: 2000, 40: 1500}[n_samples]
    net = fm.MLP.from_sizes([100, width, width, 10], seed=0)
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(n_samples, 100)).astype(np.float32), rng.integers(10, size=n_samples)
    if n_samples == 1:
        x, y = x[0], int(y[0])
    if call is step:
        monkeypatch.setitem(globals(), "OPTIMIZER", fm.SGD(0.1))
    call(net, x, y)  # the next calls may be quick
    begun, times = threading.Event(), {}

    def work():
        begun.set()
        for _ in range(20):
            call(net, x, y)
        times["ended"] = time.perf_counter()

    thread = threading.Thread(target=copy_context().run, args=(work,))
    thread.start()
    begun.wait()
    times["woken"] = time.perf_counter()
    thread.join()
    assert times["woken"] < times["ended"]

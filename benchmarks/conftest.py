"""How pytest runs the benchmarks: options, cases, and who is measured together."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import Any, NoReturn

import pytest
from threadpoolctl import threadpool_limits

import fastmlp as fm
from fastmlp import backends
from fastmlp.benchmarks import ceilings, measuring

PACKAGES = ("numpy", "numba", "scikit-learn", "torch", "jax", "onnxruntime")


class Clock:
    """A clock that pytest-benchmark reads; it shows the seconds that were measured."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


CLOCK = Clock()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what ``fastmlp bench`` passes on."""
    group = parser.getgroup("fastmlp")
    group.addoption("--peers", action="store_true", help="measure other libraries as well")
    group.addoption("--quick", action="store_true", help="measure less, in 3 minutes")
    group.addoption("--threads", type=int, default=None, help="most threads of a step")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Time only when that is asked for; otherwise each benchmark is a test that runs once."""
    if not config.option.benchmark_only:
        config.option.benchmark_disable = True
    config.fastmlp_options = measuring.Options(
        peers=config.option.peers,
        quick=config.option.quick,
        timed=config.option.benchmark_only,
        threads=config.option.threads or backends.usable_cores(),
    )
    config.fastmlp_found = {}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of each case that the module has for these options."""
    options = metafunc.config.fastmlp_options
    cases = metafunc.module.cases(options)
    metafunc.parametrize("case", list(cases), ids=str)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Name the groups, and have pytest-benchmark read our clock."""
    for item in items:
        if hasattr(item, "callspec") and "case" in item.callspec.params:
            name = item.module.__name__.rpartition("test_")[2]
            item.add_marker(pytest.mark.benchmark(group=name, timer=CLOCK))


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    """Write down what the numbers depend on."""
    machine_info["fastmlp"] = {k: str(v) for k, v in backends.config().items()}
    machine_info["versions"] = {name: _version(name) for name in PACKAGES}
    machine_info["options"] = {
        name: getattr(config.fastmlp_options, name) for name in ("peers", "quick", "threads")
    }
    machine_info["platform"] = platform.platform()
    if config.fastmlp_options.timed:
        counts = config.fastmlp_options.thread_counts
        machine_info["ceilings"] = {str(n): ceilings.survey(n) for n in counts}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _together(request: pytest.FixtureRequest) -> list[measuring.Case]:
    """Return the cases that are measured in the same rounds as that of this test."""
    module = request.module
    mine = request.node.callspec.params["case"]
    cases = [
        item.callspec.params["case"]
        for item in request.session.items
        if getattr(item, "module", None) is module
    ]
    if getattr(module, "LINES_APART", False):
        return [case for case in cases if case.line == mine.line]
    return cases


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    """Measure the Cython backend, NumPy beside it on one thread; leave everything as it was."""
    n_threads = fm.get_num_threads()
    with fm.use_backend("cython"), threadpool_limits(1, user_api="blas"):
        yield
    fm.set_num_threads(n_threads)


@pytest.fixture
def bench(request: pytest.FixtureRequest, benchmark: Any) -> Callable[[measuring.Case], None]:
    """Return the function that measures a case, with those that belong to it, or tests it."""
    return partial(_bench, request, benchmark)


def _bench(request: pytest.FixtureRequest, benchmark: Any, case: measuring.Case) -> None:
    config = request.config
    if benchmark.disabled:
        return _run_once(case, benchmark)
    found = config.fastmlp_found
    if case not in found:
        cases = _together(request)
        tick = config.pluginmanager.get_plugin("fastmlp-progress") or (lambda n_cases: None)
        found |= measuring.measure(
            cases, config.fastmlp_options, lambda share: tick(share * len(cases))
        )
    outcome = found[case]
    if isinstance(outcome, Exception):
        _raise(outcome)
    return _record(case, outcome, benchmark)


def _raise(outcome: Exception) -> NoReturn:
    """Fail, or skip the test."""
    if isinstance(outcome, measuring.Skipped):
        pytest.skip(str(outcome))
    raise outcome


def _run_once(case: measuring.Case, benchmark: Any) -> None:
    job = case.open()
    try:
        job.prepare()
        benchmark.pedantic(job.run, (case.unit,))
    except Exception as error:
        _raise(measuring.outcome(case, error))
    finally:
        job.close()


def _record(case: measuring.Case, measurement: measuring.Measurement, benchmark: Any) -> None:
    """Hand what was measured to pytest-benchmark, round by round."""
    seconds = iter(measurement.seconds)

    def replay() -> None:
        CLOCK.now += next(seconds)

    def rewind() -> None:
        CLOCK.now = 0.0

    benchmark.params = {"line": case.line, "name": case.name}
    benchmark.pedantic(replay, setup=rewind, rounds=len(measurement.seconds))
    benchmark.extra_info.update(case.notes | measurement.notes)
    yardsticks = [float(f"{seconds:.6g}") for seconds in measurement.yardsticks]
    benchmark.extra_info.update(
        spread=measuring.spread(measurement.seconds),
        instruction_set=fm.kernels.instruction_set(),
        yardsticks=yardsticks,
        own=case.own,
        rival=case.rival,
    )
    if case.work is not None:
        bound, floor = measurement.floor()
        benchmark.extra_info.update(
            threads=case.work.n_threads,
            dtype=case.work.dtype,
            flops=case.work.flops,
            bytes=case.work.moved,
            bound=bound,
            share_of_ceiling=floor / median(measurement.seconds),
        )

"""What is made of measurements: comparisons, tables, losses, reports; and the command."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from time import sleep
from types import SimpleNamespace

import numpy as np
import pytest

import fastmlp as fm
from fastmlp import cli

pytest.importorskip("pytest_benchmark", reason="the extra bench is not installed")
pytest.importorskip("matplotlib", reason="the extra bench is not installed")
pytestmark = pytest.mark.skipif(
    not fm.kernels.has_compiled_kernels(), reason="benchmarks measure the compiled kernels"
)

from fastmlp.benchmarks import (  # noqa: E402
    ceilings,
    command,
    comparison,
    measuring,
    progress,
    reasons,
    report,
    results,
)
from fastmlp.benchmarks.competitors import COMPETITORS  # noqa: E402
from fastmlp.benchmarks.problems import Problem  # noqa: E402

OPTIONS = measuring.Options(peers=False, quick=True, timed=True, threads=1)


def make_row(name, seconds, **extra):
    """Return a case whose rounds took these seconds beside a constant yardstick."""
    extra = {
        "own": True,
        "rival": False,
        "spread": 0.1,
        "yardsticks": [0.01] * len(seconds),
    } | extra
    return results.Row(name, tuple(seconds), float(np.median(seconds)), extra)


def make_run(**lines):
    """Return a run of one group from rows by line."""
    made = (results.Line("kernels", name, tuple(rows)) for name, rows in lines.items())
    return results.Results({}, "2026-01-01", tuple(made))


def noisy(seconds, rng, n_rounds=31):
    """Return rounds that are disturbed by up to a third, one in four by much more."""
    disturbed = 1 + 0.02 * rng.random(n_rounds) + 3 * (rng.random(n_rounds) < 0.25)
    return list(seconds * disturbed)


# --- Comparison ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_a_tenth_slower_is_found_and_noise_is_not(seed):
    rng = np.random.default_rng(seed)
    before = make_run(a=[make_row("cython", noisy(1e-3, rng))], b=[make_row("x", noisy(1e-5, rng))])
    after = make_run(
        a=[make_row("cython", noisy(1.1e-3, rng))], b=[make_row("x", noisy(1e-5, rng))]
    )
    (found,) = comparison.slower(before, after)
    assert found.key == ("kernels", "a", "cython")
    assert 0.06 < found.growth < 0.14
    assert str(found).startswith("kernels: a: cython: +")
    assert comparison.slower(after, before) == []


def test_a_slower_clock_is_not_a_slower_kernel():
    before = make_run(a=[make_row("cython", [1e-3] * 9)])
    after = make_run(a=[make_row("cython", [1.5e-3] * 9, yardsticks=[0.015] * 9)])
    assert comparison.slower(before, after) == []


def test_growth_within_the_spread_is_noise():
    wide = np.linspace(1e-3, 1.8e-3, 9)
    before, after = make_run(a=[make_row("x", wide)]), make_run(a=[make_row("x", 1.08 * wide)])
    assert comparison.slower(before, after) == []


def test_only_cases_of_fastmlp_in_both_runs_are_compared():
    rows = [make_row("fastmlp", [1.0] * 9), make_row("PyTorch", [1.0] * 9, own=False)]
    slow = [make_row("fastmlp", [1.0] * 9), make_row("PyTorch", [2.0] * 9, own=False)]
    assert comparison.slower(make_run(a=rows), make_run(a=slow, new=slow)) == []


def test_what_is_not_slower_again_is_no_longer_suspected():
    quick, slow = [make_row("x", [1.0] * 9)], [make_row("x", [1.2] * 9)]
    suspects = comparison.slower(make_run(a=quick, b=quick), make_run(a=slow, b=slow))
    assert [each.line for each in suspects] == ["a", "b"]
    before = make_run(a=quick, b=quick)
    again = comparison.still_slower(suspects, before, make_run(a=quick, b=slow))
    assert [each.line for each in again] == ["b"]


def test_what_all_cases_share_is_a_drift():
    """Unless it is more than a machine's state explains."""
    before = make_run(**{name: [make_row("x", [1.0] * 9)] for name in "abcdef"})
    for shared, expected in ((1.09, ["f"]), (1.2, list("abcdef"))):
        rows = {name: [make_row("x", [shared] * 9)] for name in "abcde"}
        after = make_run(**rows, f=[make_row("x", [1.1 * shared] * 9)])
        assert comparison.drifts(before, after)["kernels"] == pytest.approx(shared - 1)
        assert [each.line for each in comparison.slower(before, after)] == expected
    assert comparison.drifts(after, before)["kernels"] == 0


def test_runs_are_said_to_disagree_on_sides_and_on_long_ratios():
    def run(*ratios, first=2e-3):
        rivals = [
            make_row(name, [first * ratio] * 4, rival=True)
            for name, ratio in zip("xyz", ratios, strict=True)
        ]
        return make_run(a=[make_row("cython", [first] * 4), *rivals, make_row("w", [first] * 4)])

    before, after = run(0.9, 1.1, 2.0), run(1.1, 1.02, 2.4)
    found = comparison.ratios(before, after)
    assert [str(each) for each in found] == [
        "kernels: a: x: 0.90, now 1.10",
        "kernels: a: y: 1.10, now 1.02",
        "kernels: a: z: 2.00, now 2.40",
    ]
    assert [each.turned for each in found] == [True, False, False]  # a draw agrees with both
    assert [each.moved for each in found] == [True, False, True]
    assert not any(each.moved for each in comparison.ratios(before, run(0.95, 1.02, 2.2)))
    assert any(each.moved for each in comparison.ratios(after, before))
    short = comparison.ratios(run(0.9, 1.1, 2.0, first=1e-4), run(1.1, 1.02, 2.4, first=1e-4))
    assert not any(each.moved for each in short)
    assert comparison.ratios(make_run(b=before.lines[0].rows), after) == []


# --- Lines --------------------------------------------------------------------------------


def test_losses_are_lines_on_which_a_rival_is_faster(monkeypatch):
    monkeypatch.setattr(results, "REASONS", {"^kernels: a: numba: 2.00$": "known"})
    first = make_row("cython", [2e-3] * 3)
    rivals = [
        make_row("numba", [1e-3] * 3, rival=True),
        make_row("numpy", [1.5e-3] * 3, rival=True),
    ]
    sibling = make_row("wider", [1e-3] * 3)
    run = make_run(a=[first, *rivals], b=[first, rivals[1]], c=[first, sibling])
    found = results.behind(run)
    assert [(str(each), each.reason) for each in found] == [
        ("kernels: a: numba", "known"),
        ("kernels: b: numpy", "no reason is known"),
    ]
    assert found[0].ratio == 2
    assert results.draws(run) == []


def test_a_side_is_beyond_the_difference_of_processes_and_the_rounds():
    first = make_row("cython", [1.0] * 8)
    for seconds, expected in (
        ([0.9] * 8, -1),
        ([0.97] * 8, 0),
        ([1.03] * 8, 0),
        ([1.1] * 8, 1),
        ([0.9] * 5 + [1.1] * 3, 0),  # in too few of the rounds
        ([1.1] * 5 + [0.9] * 3, 0),
        ([0.9] * 7 + [9.0], -1),
    ):
        rival = make_row("numba", seconds, rival=True)
        line = results.Line("kernels", "a", (first, rival))
        assert line.side(rival) == expected
        run = results.Results({}, "2026-01-01", (line,))
        assert len(results.behind(run)) == (expected < 0)
        assert len(results.draws(run)) == (expected == 0)


def test_who_is_ahead_for_sure_comes_before_who_is_so_in_the_middle():
    first = make_row("cython", [1.0] * 8)
    unsure = make_row("numba", [0.8] * 5 + [1.1] * 3, rival=True)
    sure = make_row("numpy", [0.9] * 8, rival=True)
    (found,) = results.behind(make_run(a=[first, unsure, sure]))
    assert found.rival is sure


def test_ratios_are_those_of_the_same_round():
    """What disturbs half of the rounds, and so both cases, changes no ratio."""
    seconds = np.array([1.0, 5.0, 1.0, 5.0, 5.0])
    rows = make_row("cython", seconds), make_row("numba", 1.2 * seconds, rival=True)
    line = results.Line("kernels", "a", rows)
    assert line.ratio(rows[1]) == pytest.approx(1.2)
    assert line.side(rows[1]) == 1


def test_of_memory_the_peaks_are_compared():
    def row(name, mebibytes, **extra):
        held = {"peak_bytes": mebibytes * 2**20, "held_bytes": 27 * 2**20}
        return make_row(name, [1.0], **held, **extra)

    rows = row("fastmlp", 30), row("JAX", 60, rival=True), row("NumPy", 20, rival=True)
    run = make_run(a=rows)
    assert results.table(run.lines[0]) == [
        ["", "peak", "ratio", "must be held"],
        ["fastmlp", "30.0 MiB", "1.00", "90 %"],
        ["JAX", "60.0 MiB", "2.00", "45 %"],
        ["NumPy", "20.0 MiB", "0.67", "135 %"],
    ]
    assert [str(each) for each in results.behind(run)] == ["kernels: a: NumPy"]
    more = make_run(a=[row("fastmlp", 33), *rows[1:]])
    (found,) = comparison.slower(run, more)
    assert found.growth == pytest.approx(0.1)


def test_reasons_are_patterns_with_sentences():
    for pattern, reason in reasons.REASONS.items():
        re.compile(pattern)
        assert reason


def test_a_table_has_medians_ratios_and_shares():
    share = {"share_of_ceiling": 0.905, "bound": "FMA"}
    rows = make_row("a", [2e-3] * 3, **share), make_row("b", [5e-6] * 3), make_row("c", [2e-3] * 3)
    assert results.table(results.Line("g", "l", rows)) == [
        ["", "median", "spread", "ratio", "of the ceiling"],
        ["a", "2 ms", "10 %", "1.00", "90 % FMA"],
        ["b", "5 µs", "10 %", "0.00", ""],
        ["c", "2 ms", "10 %", "≈ 1.00", ""],
    ]


def test_another_file_is_refused(tmp_path):
    for text in ("", "[]", '{"benchmarks": [{"group": "g"}]}'):
        path = tmp_path / "other.json"
        path.write_text(text)
        with pytest.raises(ValueError, match=r"other.json is not a file of fastmlp bench --json"):
            results.read(path)


# --- Measuring ----------------------------------------------------------------------------


def test_ceilings_bound_a_step_by_arithmetic_or_memory():
    rates = {("fma", "float32", 2): 1e9, ("memory", 2**20, True, 2): 1e8}
    work = ceilings.Work(3e6, read=1e5, written=1e5, footprint=1.1e6, n_threads=2)
    assert ceilings.Ceilings(rates).seconds(work) == {"FMA": 3e-3, "memory": 2e-3}


@pytest.mark.parametrize(("write", "passes"), [(False, 1), (True, 2)])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_streams_move_what_they_say_and_change_nothing(write, passes, n_threads):
    data = np.arange(10_000, dtype=np.float32)
    module = fm.kernels.load_backend("cython")
    moved = module.stream_memory(data, write, 5, n_threads)
    np.testing.assert_array_equal(data, np.arange(10_000))
    whole = 4.0 * passes * 5 * len(data)
    assert whole * (1 - n_threads * 128 / len(data)) <= moved <= whole
    assert module.stream_memory(data[:3], write, 5, n_threads) == 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_tiles_do_the_operations_they_say(dtype, n_threads):
    numbers = np.ones(1024, dtype)
    module = fm.kernels.load_backend("cython")
    (once, thrice) = (module.multiply_add_tiles(numbers, steps, n_threads) for steps in (1, 3))
    assert thrice == 3 * once > 0
    assert once % (2 * n_threads) == 0
    assert once == n_threads * module.multiply_add_tiles(numbers, 1)
    np.testing.assert_array_equal(numbers, 1)
    assert module.multiply_add_tiles(numbers[:3], 5) == 0


def test_tiles_are_slower_than_registers_by_no_more_than_loads_explain():
    """A tile of which a part is left out would look faster than the processor is."""
    fed = max(ceilings.fed_multiply_add_rate("float32", 1) for _ in range(3))
    peak = max(ceilings.multiply_add_rate("float32", 1) for _ in range(3))
    assert 0.3 < fed / peak < 1.5


def test_cases_are_timed_in_turn():
    calls = []

    class Job:
        def __init__(self, name):
            self.name = name

        def prepare(self):
            return {"prepared": self.name}

        def run(self, n_steps, warm_up=0):
            calls.append(self.name)
            return 1e-3 * n_steps

        def close(self):
            return {"closed": True}

    cases = [
        measuring.Case("l", name, lambda name=name: Job(name), rounds=rounds, long=True)
        for name, rounds in (("a", 3), ("b", 2))
    ]
    shares = []
    found = measuring.measure(cases, OPTIONS, shares.append)
    assert calls == list("ababa")
    assert sum(shares) == pytest.approx(1)
    assert found[cases[0]].seconds == [1e-3] * 3
    assert found[cases[1]].notes == {"prepared": "b", "closed": True}
    assert all(yardstick > 0 for yardstick in found[cases[0]].yardsticks)


@pytest.mark.parametrize("own", [False, True])
def test_who_fails_on_the_way_does_not_stop_the_others(own):
    class Job:
        def __init__(self, name):
            self.name, self.n_runs, self.closed = name, 0, False

        def prepare(self):
            return {}

        def run(self, n_steps, warm_up=0):
            self.n_runs += 1
            if self.name == "b" and self.n_runs == 3:
                raise measuring.Failed("the process ended")
            return 1e-3

        def close(self):
            self.closed = True
            return {}

    jobs = [Job(name) for name in "ab"]
    cases = [
        measuring.Case("l", job.name, lambda job=job: job, rounds=5, long=True, own=own)
        for job in jobs
    ]
    found = measuring.measure(cases, OPTIONS)
    assert len(found[cases[0]].seconds) == 5
    assert isinstance(found[cases[1]], measuring.Failed if own else measuring.Skipped)
    assert [job.n_runs for job in jobs] == [5, 3]
    assert all(job.closed for job in jobs)


def test_a_worker_that_ends_early_has_failed(monkeypatch):
    process = measuring.Process("NumPy plain", Problem((5, 7, 3), 4, n_batches=1), 1)
    try:
        process.prepare()
        process.process.kill()
        with pytest.raises(measuring.Failed, match="NumPy plain: the process ended"):
            process.run(1)
    finally:
        process.close()


def test_a_worker_chooses_its_threads_itself(monkeypatch):
    for name in ("OMP_NUM_THREADS", "OPENBLAS_CORETYPE", "XLA_FLAGS"):
        monkeypatch.setenv(name, "x")
    process = measuring.Process("NumPy plain", Problem((5, 7, 3), 4, n_batches=1), 1)
    try:
        process.prepare()
        variables = Path("/proc", str(process.process.pid), "environ").read_text()
    finally:
        process.close()
    assert "MALLOC_MMAP_MAX_=0" in variables
    assert not re.search("OMP_NUM_THREADS|OPENBLAS_CORETYPE|XLA_FLAGS", variables)


@pytest.mark.parametrize(
    ("seconds", "started"), [(0.5 * measuring.LONG, "ab"), (2 * measuring.LONG, "ababab")]
)
def test_several_jobs_share_the_rounds_of_long_steps(seconds, started):
    calls, n_closed = [], []

    class Job:
        def __init__(self, name):
            self.name = name
            calls.append(name)

        def prepare(self):
            if calls.count("b") == 3 and self.name == "b":
                raise measuring.Skipped("twice is enough")
            return {}

        def run(self, n_steps, warm_up=0):
            return seconds * n_steps

        def close(self):
            n_closed.append(1)
            return {}

    cases = [
        measuring.Case("l", name, lambda name=name: Job(name), rounds=6, long=True, processes=3)
        for name in "ab"
    ]
    shares = []
    found = measuring.measure(cases, OPTIONS, shares.append)
    assert "".join(calls) == started
    assert len(n_closed) == len(calls)
    assert sum(shares) == pytest.approx(1)
    assert found[cases[0]].seconds == [seconds] * 6
    assert isinstance(found[cases[1]], Exception) == (len(started) > 2)


def test_a_worker_has_its_cores_from_the_start_and_rests_between_requests():
    """Threads that NumPy starts at its import stay where it was imported."""
    process = measuring.Process("NumPy plain", Problem((5, 7, 3), 4, n_batches=1), 1)

    def threads(field):
        folder = Path("/proc", str(process.process.pid), "task")
        texts = [(task / "status").read_text() for task in folder.iterdir()]
        return {re.search(rf"{field}:\s+(\S+)", text)[1] for text in texts}

    try:
        assert process.prepare()["peak_bytes"] >= 0
        assert threads("Cpus_allowed_list") == {str(min(os.sched_getaffinity(0)))}
        for _ in range(3):
            assert process.run(2) > 0
            for _ in range(1000):  # the signal takes a moment
                if threads("State") == {"T"}:
                    break
                sleep(0.001)
            else:
                pytest.fail("the worker goes on")
    finally:
        process.close()
    assert process.process.returncode == 0


def test_a_worker_ends_with_its_parent():
    code = (
        "import sys; from fastmlp.benchmarks import measuring, problems; "
        "process = measuring.Process('NumPy plain', problems.Problem((5, 7, 3), 4), 1); "
        "process.prepare(); print(process.process.pid, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-P", "-c", code]
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    worker = Path("/proc", parent.stdout.readline().strip(), "stat")
    assert worker.exists()
    parent.kill()
    parent.communicate()
    for _ in range(1000):
        if not worker.exists() or worker.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        sleep(0.01)
    pytest.fail("the worker still runs")


def test_who_computes_something_else_is_not_timed():
    def wrong():
        raise AssertionError("off by 1")

    case = measuring.Case("l", "n", lambda: measuring.Call(pytest.fail, wrong))
    outcome = measuring.measure([case], OPTIONS)[case]
    assert isinstance(outcome, AssertionError)


def test_what_must_be_held_is_what_training_makes():
    problem = Problem((5, 7, 3), 4, "adam", n_batches=2)
    held, (x, y) = problem.held_bytes(), problem.samples()
    assert held["data"] == x.nbytes + y.nbytes
    parts = [part for layer in problem.initial_parameters() for part in layer]
    assert held["parameters"] == sum(part.nbytes for part in parts)
    assert held["optimizer state"] == 2 * held["parameters"]
    assert held["activations of a batch"] == 4 * 4 * (7 + 3)
    real = Problem((5, 7, 3), 4, "sgd", "tanh", "quadratic", "float64", 2)
    assert real.held_bytes()["data"] == sum(part.nbytes for part in real.samples())
    assert real.held_bytes()["optimizer state"] == 0


def test_weights_that_no_sample_meets_are_no_work():
    sizes, n_hidden = (40, 30, 10), 30
    problem = Problem(sizes, job="sgd", single=True, n_batches=1)
    (weight, bias), _ = problem.initial_parameters()
    n_on = int((weight @ problem.samples()[0][0] + bias > 0).sum())
    assert 0 < n_on < n_hidden
    met = 40 * 30 + n_on * 10
    work = problem.work(1)
    assert work.flops == 2 * (3 * met - 40 * 30)
    assert (work.read, work.written) == (4 * (2 * met + 40), 4 * (met + 10))
    stored = replace(problem, job="gradient").work(1)
    assert stored.read == 4 * (2 * met + 40)
    assert stored.written == 4 * (40 * 30 + 30 * 10 + 10)
    for other in (replace(problem, activation="tanh"), replace(problem, single=False)):
        assert other.work(1).written == 4 * (40 * 30 + 30 * 10 + 10)


def test_progress_counts_cases_and_names_groups_where_there_is_no_terminal(capsys, monkeypatch):
    session = SimpleNamespace(items=range(3))
    shown = progress.Progress()
    shown.pytest_collection_finish(session)
    shown.pytest_runtest_logstart("benchmarks/test_cold.py::test_cold_start[a: b]")
    for _ in range(10):
        shown.advance(0.1)
    shown.pytest_runtest_logstart("benchmarks/test_cold.py::test_cold_start[a: c]")
    shown.pytest_runtest_logstart("benchmarks/test_memory.py::test_memory[a: b]")
    monkeypatch.setattr(progress, "INTERVAL", -1.0)
    shown.advance(2 / 3)
    shown.advance(4 / 3)
    shown.pytest_sessionfinish()
    assert capsys.readouterr().err.splitlines() == [
        "0:00 cold: 0 of 3 cases",
        "0:00 memory: 1 of 3 cases",
        "0:00 memory: 1 of 3 cases",
        "0:00 memory: 3 of 3 cases",
    ]


def test_differences_beyond_rounding_are_found():
    expected = np.linspace(-1, 1, 5)
    measuring.agree([expected + 1e-9], [expected], "who")
    with pytest.raises(AssertionError, match="who is off by"):
        measuring.agree([expected + 1e-7], [expected], "who")
    with pytest.raises(AssertionError, match="who is off by nan"):
        measuring.agree([expected * np.nan], [expected], "who")


@pytest.mark.parametrize("job", ["adam", "sgd", "gradient", "forward"])
@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("loss", ["cross_entropy", "quadratic"])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_both_forms_of_numpy_do_the_work_of_fastmlp(job, single, loss, activation):
    batch_size = 1 if single else 4
    problem = Problem((5, 7, 3), batch_size, job, activation, loss, "float64", 2, single)
    found = {}
    for name in ("fastmlp", "NumPy in place", "NumPy plain"):
        task = COMPETITORS[name].make(problem)
        task.run(4)
        x = problem.samples()[0]
        found[name] = [task.predict(x), task.gradient()]
        if not problem.trains:
            assert found[name][0] == pytest.approx(found["fastmlp"][0], rel=1e-12)
    for name in ("NumPy in place", "NumPy plain"):
        measuring.agree(found[name], found["fastmlp"], name)


# --- The command --------------------------------------------------------------------------


def run_cold_starts(*arguments):
    """Run the group of cold starts, without peers, and return how it ended."""
    command = [sys.executable, "-P", "-m", "fastmlp", "bench", "cold", "--quick", "--threads", "1"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return the folder of a short run."""
    folder = tmp_path_factory.mktemp("bench")
    result = run_cold_starts("--json", folder / "run.json", "--report", folder)
    assert result.returncode == 0, result.stderr
    assert "first training steps" in result.stdout
    assert "0:00 cold: 0 of " in result.stderr
    return folder


def test_the_json_is_that_of_pytest_benchmark(written):
    saved = json.loads((written / "run.json").read_text())
    case = saved["benchmarks"][0]
    assert case["group"] == "cold"
    assert case["params"] == {"line": "import", "name": "fastmlp"}
    assert case["stats"]["rounds"] == len(case["stats"]["data"]) == 6
    assert case["stats"]["min"] == min(case["stats"]["data"]) > 0
    assert saved["machine_info"]["options"] == {"peers": False, "quick": True, "threads": 1}
    levels = saved["machine_info"]["ceilings"]["1"]["memory"]
    assert levels["L1"]["read"] > levels["DRAM"]["read"] > 1e8


def test_reports_have_every_line(written):
    found = results.read(written / "run.json")
    page, markdown = ((written / name).read_text() for name in ("report.html", "RESULTS.md"))
    for line in found.lines:
        assert line.name in page
        assert line.name in markdown
    assert markdown.index("Where fastmlp is not the fastest") < markdown.index("All lines")


def test_every_plot_is_drawn_and_stands_in_the_page(tmp_path):
    machine = {
        "options": {"quick": False, "peers": True},
        "cpu": {},
        "platform": "p",
        "fastmlp": {},
        "versions": {},
        "ceilings": {
            "1": {"registers": {"float32": 2e11}, "L1": {"float32": 1.5e11}}
            | {"memory": {"L1": {"bytes": 1024, "read": 3e11, "read and write": 3e11}}}
        },
    }
    common = {"threads": 1, "dtype": "float32", "flops": 1e6, "bytes": 1e5, "bound": "FMA"}

    def lines(group, names, **extra):
        for scale in (1, 2):
            rows = [
                make_row(
                    name,
                    [scale * (at + 1) * 1e-5] * 3,
                    **common,
                    **extra
                    | {"width": 256 * scale, "n_parameters": 100 * scale, "batch_size": scale},
                    extrapolated=bool(at and scale > 1),
                )
                for at, name in enumerate(names)
            ]
            yield results.Line(group, f"{group} {scale} <&>", tuple(rows))

    run = results.Results(
        machine,
        "2026-01-01",
        (
            *lines("single", ["fastmlp", "PyTorch"]),
            *lines("batches", ["fastmlp", "JAX"], sweep="a"),
            *lines("cost", ["forward", "applied", "stored"], samples="one sample"),
            *lines("differences", ["backpropagation", "fair differences", "naive differences"]),
            *lines("threads", ["1 thread", "2 threads"]),
        ),
    )
    report.write(run, tmp_path)
    drawn = {path.stem for path in (tmp_path / "plots").iterdir()}
    assert drawn == {"peers", "batches", "cost", "differences", "roofline", "threads"}
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == len(drawn)
    for path in (tmp_path / "plots").iterdir():
        ElementTree.parse(path)
    assert "single 1 &lt;&amp;&gt;" in page
    assert "2.00 if applied at once, 3.00 if ∂W is stored" in page
    assert "≈ 3 × backpropagation" in page


def test_a_slower_run_ends_with_status_1(written):
    saved = json.loads((written / "run.json").read_text())
    for case in saved["benchmarks"]:
        case["stats"]["data"] = [seconds / 3 for seconds in case["stats"]["data"]]
    (written / "old.json").write_text(json.dumps(saved))
    result = run_cold_starts("--compare", written / "old.json")
    assert result.returncode == 1, result.stderr
    assert "2 cases are slower than on" in result.stdout
    assert re.search(r"the runs disagree on who is ahead in \d of 2 ratios", result.stdout)
    assert re.search(r"of the ratios on lines above 1 ms, \d differ by more", result.stdout)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "GROUP must be one of single, training"),
        (["--compare", "missing.json"], "No such file or directory: 'missing.json'"),
        (["--threads", "0"], "threads must be an integer of at least 1, got 0"),
    ],
)
def test_wrong_arguments_end_with_status_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["bench", *arguments])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_every_group_has_a_file():
    files = {path.stem.removeprefix("test_") for path in command.FOLDER.glob("test_*.py")}
    assert files == set(command.GROUPS)

"""What ``fastmlp bench`` does: run the suite, print tables, write reports, compare runs."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fastmlp._validation import check_integer
from fastmlp.kernels import load_backend
from fastmlp.text import aligned_table

from . import comparison, results
from .measuring import LONG
from .results import Results

__all__ = ["GROUPS", "run"]

FOLDER = Path(__file__).parent

#: Names of the groups, in the order in which they are measured.
GROUPS = (
    "single",
    "training",
    "forward",
    "batches",
    "cost",
    "differences",
    "kernels",
    "optimizers",
    "activations",
    "shapes",
    "threads",
    "target",
    "cold",
    "memory",
)


def run(options: argparse.Namespace) -> int:
    """Measure, and print and write what was asked for.

    Parameters
    ----------
    options : argparse.Namespace
        The arguments of the command.

    Returns
    -------
    int
        0; 1 if a benchmark failed, or one is slower than it was.

    Raises
    ------
    ImportError
        If pytest-benchmark, matplotlib or the compiled kernels are missing.
    ValueError
        If a group does not exist, or a file cannot be compared with.
    """
    unknown = sorted(set(options.groups) - set(GROUPS))
    if unknown:
        raise ValueError(f"GROUP must be one of {', '.join(GROUPS)}, got {', '.join(unknown)}")
    if options.threads is not None:
        check_integer("threads", options.threads, minimum=1)
    load_backend("cython")
    before = results.read(options.compare) if options.compare else None
    groups = [name for name in GROUPS if name in (options.groups or GROUPS)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(options.json or Path(folder, "results.json"))
        status = measure(groups, path, options)
        if not path.exists() or not path.stat().st_size:
            return status or 1
        found = results.read(path)
        print_tables(found)
        if options.report:
            from . import report

            report.write(found, Path(options.report))
        if before is not None:
            status = max(status, compare(before, found, options))
    return status


def measure(
    groups: Sequence[str], path: Path, options: argparse.Namespace, *, peers: bool = True
) -> int:
    """Run groups with pytest in this process, and write the results.

    Parameters
    ----------
    groups : sequence of str
        Names of the groups.
    path : pathlib.Path
        File to write.
    options : argparse.Namespace
        The arguments of the command.
    peers : bool, default=True
        Whether to measure peers, where the options ask for them.

    Returns
    -------
    int
        1 if a benchmark failed, else 0.
    """
    import pytest

    from .progress import Progress

    arguments = [str(FOLDER / f"test_{name}.py") for name in groups]
    arguments += ["-o", "addopts=", "--import-mode=importlib"]
    # What captures output would capture the progress as well.
    arguments += ["-p", "no:cacheprovider", "-p", "no:terminal", "--capture=no"]
    arguments += ["--benchmark-only", f"--benchmark-json={path}"]
    arguments += ["--peers"] * (options.peers and peers) + ["--quick"] * options.quick
    arguments += [f"--threads={options.threads}"] * (options.threads is not None)
    progress = Progress()
    pytest.main(arguments, [progress])
    for text in progress.skipped:
        print(f"skipped: {text}", file=sys.stderr)
    for text in progress.failed:
        print(f"failed: {text}", file=sys.stderr)
    return 1 if progress.failed else 0


def print_tables(found: Results) -> None:
    """Print a table for each line, group by group.

    Parameters
    ----------
    found : Results
        A run.
    """
    for group, lines in found.groups():
        print(f"\n=== {group}")
        for line in lines:
            print(f"\n{line.name}\n{aligned_table(results.table(line))}")
    lost, even = results.behind(found), results.draws(found)
    n_contested = len(results.contested(found))
    print(f"\nfastmlp is not the fastest on {len(lost)} of {n_contested} lines with others")
    for each in lost:
        print(f"  {each}: {each.ratio:.2f} ({each.reason})")
    print(f"\nsomebody is as good, and nobody ahead, on {len(even)}")
    for each in even:
        print(f"  {each}: {each.ratio:.2f}")


def compare(before: Results, found: Results, options: argparse.Namespace) -> int:
    """Print which cases became slower, each measured again before it is believed.

    Then print on which ratios the two runs disagree, which does not count.

    Parameters
    ----------
    before, found : Results
        The earlier run and this one.
    options : argparse.Namespace
        The arguments of the command.

    Returns
    -------
    int
        1 if there are such cases, else 0.
    """
    suspects = comparison.slower(before, found)
    for _ in range(comparison.REPETITIONS):
        if not suspects:
            break
        groups = sorted({each.group for each in suspects})
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "again.json")
            measure(groups, path, options, peers=False)
            suspects = comparison.still_slower(suspects, before, results.read(path))
    for group, drift in comparison.drifts(before, found).items():
        if drift > comparison.THRESHOLD:
            print(
                f"\n{group}: half of the cases are slower by {100 * drift:.0f} % or more: another "
                "state of the machine, or a change that concerns them all"
            )
    print(f"\n{len(suspects)} cases are slower than on {before.date}")
    for each in suspects:
        print(f"  {each}")
    print_changes(before, found)
    return 1 if suspects else 0


def print_changes(before: Results, found: Results) -> None:
    """Print where two runs disagree on who is faster, or on by how much.

    Parameters
    ----------
    before, found : Results
        Two runs.
    """
    ratios = comparison.ratios(before, found)
    turned = [each for each in ratios if each.turned]
    moved = [each for each in ratios if each.moved]
    print(f"\nthe runs disagree on who is ahead in {len(turned)} of {len(ratios)} ratios")
    for each in turned:
        print(f"  {each}")
    print(
        f"of the ratios on lines above {1e3 * LONG:.0f} ms, {len(moved)} differ by more "
        f"than {100 * comparison.AGREEING:.0f} %"
    )
    for each in moved:
        print(f"  {each}")

"""What pytest-benchmark wrote, as lines that compare cases."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from fastmlp.text import duration

from .reasons import REASONS

__all__ = ["HEADER", "Behind", "Line", "Results", "Row", "behind", "read", "table"]

HEADER = ["", "median", "spread", "ratio", "of the ceiling"]


@dataclass(frozen=True)
class Row:
    """A case that was measured.

    Parameters
    ----------
    name : str
        Who did it, or how.
    seconds : tuple of float
        Of a step, in each round.
    median : float
        Their median.
    extra : dict
        What else is known.
    """

    name: str
    seconds: tuple[float, ...]
    median: float
    extra: dict[str, Any]


@dataclass(frozen=True)
class Line:
    """Cases that did the same work; others are compared with the first.

    Parameters
    ----------
    group : str
        Name of the group.
    name : str
        What was done.
    rows : tuple of Row
        The cases.
    """

    group: str
    name: str
    rows: tuple[Row, ...]

    def row(self, name: str) -> Row | None:
        """Return the case of this name."""
        return next((row for row in self.rows if row.name == name), None)


@dataclass(frozen=True)
class Results:
    """A run of the suite.

    Parameters
    ----------
    machine : dict
        What the numbers depend on.
    date : str
        When it ended, UTC.
    lines : tuple of Line
        All lines, in the order in which they were measured.
    """

    machine: dict[str, Any]
    date: str
    lines: tuple[Line, ...]

    def groups(self) -> Iterator[tuple[str, list[Line]]]:
        """Yield the groups with their lines."""
        for group, lines in groupby(self.lines, lambda line: line.group):
            yield group, list(lines)

    def group(self, name: str) -> list[Line]:
        """Return the lines of a group."""
        return [line for line in self.lines if line.group == name]


def read(path: str | Path) -> Results:
    """Read a file that pytest-benchmark wrote.

    Parameters
    ----------
    path : str or pathlib.Path
        Its path.

    Returns
    -------
    Results
        What it says.

    Raises
    ------
    ValueError
        If the file holds something else.
    """
    try:
        saved = json.loads(Path(path).read_text())
        cases = [
            (
                (case["group"], case["params"]["line"]),
                Row(
                    case["params"]["name"],
                    tuple(case["stats"]["data"]),
                    case["stats"]["median"],
                    case["extra_info"],
                ),
            )
            for case in saved["benchmarks"]
        ]
        machine, date = saved["machine_info"], saved["datetime"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a file of fastmlp bench --json: {error!r}") from error
    rows: dict[tuple[str, str], list[Row]] = {}
    for key, row in cases:
        rows.setdefault(key, []).append(row)
    lines = tuple(Line(*key, tuple(of_line)) for key, of_line in rows.items())
    return Results(machine, date[:16].replace("T", " "), lines)


def table(line: Line) -> list[list[str]]:
    """Lay a line out as rows of a table, under :data:`HEADER`.

    Parameters
    ----------
    line : Line
        The line.

    Returns
    -------
    list of list of str
        Name, median, spread (distance of the quartiles as a share of the median), ratio to the
        first, and the share of what the processor can do at most.
    """
    first = line.rows[0].median
    rows = []
    for row in line.rows:
        share = row.extra.get("share_of_ceiling")
        ceiling = "" if not share else f"{100 * share:.0f} % {row.extra['bound']}"
        cells = [row.name, duration(row.median), f"{100 * row.extra['spread']:.0f} %"]
        rows.append([*cells, f"{row.median / first:.2f}", ceiling])
    return rows


class Behind(NamedTuple):
    """A line on which fastmlp is not the fastest.

    Parameters
    ----------
    line : Line
        The line.
    faster : Row
        The fastest case.
    ratio : float
        How many times as long fastmlp takes.
    reason : str
        Why, as far as it is known.
    """

    line: Line
    faster: Row
    ratio: float
    reason: str


def behind(results: Results) -> list[Behind]:
    """Find the lines on which another library, or another backend, is faster.

    Parameters
    ----------
    results : Results
        A run.

    Returns
    -------
    list of Behind
        In the order of the lines.
    """
    found = []
    for line in results.lines:
        first, *others = line.rows
        rivals = [row for row in others if row.extra["rival"] and row.median < first.median]
        if rivals:
            fastest = min(rivals, key=lambda row: row.median)
            ratio = first.median / fastest.median
            found.append(Behind(line, fastest, ratio, _reason(line, fastest)))
    return found


def _reason(line: Line, faster: Row) -> str:
    """Return the first reason that is known for such a line."""
    what = f"{line.group}: {line.name}: {faster.name}"
    known = (reason for pattern, reason in REASONS.items() if re.search(pattern, what))
    return next(known, "no reason is known")

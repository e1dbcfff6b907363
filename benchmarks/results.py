"""What pytest-benchmark wrote, as lines that compare cases."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from fastmlp.text import duration

from .measuring import quartiles
from .reasons import REASONS

__all__ = ["Line", "Pair", "Results", "Row", "behind", "contested", "draws", "read", "table"]

#: Ratios this near to 1 are draws: one process is that much faster than the next one of the same
#: program, depending on where its memory lies.
DRAW = 0.05

#: What tables of time say of a case.
TIMES = ("median", "spread", "ratio", "of the ceiling")

#: What tables of memory say.
MEMORY = ("peak", "ratio", "must be held")


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

    @property
    def measures_memory(self) -> bool:
        """Whether memory is what counts, instead of time."""
        return "held_bytes" in self.extra

    @property
    def amounts(self) -> tuple[float, ...]:
        """What is compared: the seconds of each round, or the bytes."""
        return (self.extra["peak_bytes"],) if self.measures_memory else self.seconds

    @property
    def amount(self) -> str:
        """Their median, with its unit."""
        if self.measures_memory:
            return f"{median(self.amounts) / 2**20:.1f} MiB"
        return duration(self.median)


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

    def ratio(self, row: Row) -> float:
        """Return how many times as much as the first case another takes."""
        return self._ratios(row)[1]

    def side(self, row: Row) -> int:
        """Return 1 if a case takes more than the first, -1 if less, 0 if that cannot be said.

        It is said where the ratio is beyond :data:`DRAW`, in three of four rounds on that side.
        """
        low, middle, high = self._ratios(row)
        if middle > 1 + DRAW and low > 1:
            return 1
        return -1 if middle < 1 / (1 + DRAW) and high < 1 else 0

    def _ratios(self, row: Row) -> tuple[float, float, float]:
        """Return the quartiles of the ratios in the same round: what disturbs it disturbs both."""
        pairs = zip(row.amounts, self.rows[0].amounts, strict=False)
        return quartiles([mine / first for mine, first in pairs])


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
    """Lay a line out as a table.

    Parameters
    ----------
    line : Line
        The line.

    Returns
    -------
    list of list of str
        The header, then a row for each case. Of time: name, median, spread (distance of the
        quartiles as a share of the median), ratio to the first, ≈ if that is a draw, and the
        share of what the processor can do at most. Of memory: the most that was taken, the
        ratio, and the share of it that whoever trains must hold.
    """
    memory = line.rows[0].measures_memory
    rows = [["", *(MEMORY if memory else TIMES)]]
    for index, row in enumerate(line.rows):
        about = "≈ " if index and line.side(row) == 0 else ""
        ratio = f"{about}{line.ratio(row):.2f}"
        if memory:
            share = row.extra["held_bytes"] / row.extra["peak_bytes"]
            rows.append([row.name, row.amount, ratio, f"{100 * share:.0f} %"])
            continue
        reached = row.extra.get("share_of_ceiling")
        ceiling = "" if not reached else f"{100 * reached:.0f} % {row.extra['bound']}"
        spread = f"{100 * row.extra['spread']:.0f} %"
        rows.append([row.name, row.amount, spread, ratio, ceiling])
    return rows


class Pair(NamedTuple):
    """A line, and the rival that does best on it.

    Parameters
    ----------
    line : Line
        The line.
    rival : Row
        The case that takes least, beside the first.
    """

    line: Line
    rival: Row

    def __str__(self) -> str:
        return f"{self.line.group}: {self.line.name}: {self.rival.name}"

    @property
    def ratio(self) -> float:
        """How many times as much as the rival fastmlp takes."""
        return 1 / self.line.ratio(self.rival)

    @property
    def reason(self) -> str:
        """Why the rival is ahead: the first of :data:`REASONS` that is known for such a line."""
        text = f"{self}: {self.ratio:.2f}"
        known = (reason for pattern, reason in REASONS.items() if re.search(pattern, text))
        return next(known, "no reason is known")


def behind(results: Results) -> list[Pair]:
    """Find the lines on which another library, or another backend, is ahead.

    Parameters
    ----------
    results : Results
        A run.

    Returns
    -------
    list of Pair
        In the order of the lines.
    """
    return [pair for pair in contested(results) if pair.line.side(pair.rival) < 0]


def draws(results: Results) -> list[Pair]:
    """Find the lines on which nobody is ahead of fastmlp, but somebody as good.

    Parameters
    ----------
    results : Results
        A run.

    Returns
    -------
    list of Pair
        In the order of the lines.
    """
    return [pair for pair in contested(results) if pair.line.side(pair.rival) == 0]


def contested(results: Results) -> list[Pair]:
    """Find the lines on which somebody else does the same work as fastmlp.

    Parameters
    ----------
    results : Results
        A run.

    Returns
    -------
    list of Pair
        In the order of the lines.
    """
    found = []
    for line in results.lines:
        rivals = [row for row in line.rows[1:] if row.extra["rival"]]
        if rivals:
            # One that is ahead for sure, before one that is only ahead in the middle.
            best = min(rivals, key=lambda row: (line.side(row), line.ratio(row)))
            found.append(Pair(line, best))
    return found

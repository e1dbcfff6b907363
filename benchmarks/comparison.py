"""Which cases became slower between two runs, on a machine whose speed wanders.

Each round of a case stands beside a yardstick, multiply-adds in registers for as long. A case's
cost is the quotient of the lowest deciles of both: the clock's changes cancel, and disturbances
lie above. Where another machine shares the core, kernels suffer more than the yardstick, half of
them by up to 9 % for minutes. So the growth of a case counts from the median growth of its
group, the drift: what stands out has changed, what all cases share is only told.

Ratios to others are compared as well: whether both runs say who is ahead, and by how much.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from .measuring import LONG
from .results import Results, Row

__all__ = [
    "AGREEING",
    "REPETITIONS",
    "Ratio",
    "Slower",
    "cost",
    "drifts",
    "ratios",
    "slower",
    "still_slower",
]

#: Growth of the cost that is noise; more where the rounds spread more.
THRESHOLD = 0.06

#: Cases of a group that tell its drift; fewer might all have changed.
DRIFTING = 5

#: Drift that no state of a machine explains: then every case counts by itself.
LARGEST_DRIFT = 0.12

#: Ratios that differ by no more than this share agree.
AGREEING = 0.15

#: How often a case that looks slower is measured again before that is believed.
REPETITIONS = 3


@dataclass(frozen=True)
class Slower:
    """A case that became slower.

    Parameters
    ----------
    group, line, name : str
        Which case.
    before, spread_before, after, spread_after : float
        Costs in the two runs, as :func:`cost` gives them.
    drift : float
        Growth that the case shares with its group.
    """

    group: str
    line: str
    name: str
    before: float
    spread_before: float
    after: float
    spread_after: float
    drift: float = 0.0

    @property
    def key(self) -> tuple[str, str, str]:
        """Group, line and name."""
        return self.group, self.line, self.name

    @property
    def growth(self) -> float:
        """By how much the cost grew beyond the drift, as a share."""
        return self.after / self.before / (1 + self.drift) - 1

    @property
    def margin(self) -> float:
        """What growth the noise of the two runs explains."""
        return max(THRESHOLD, self.spread_before, self.spread_after)

    def __str__(self) -> str:
        return f"{': '.join(self.key)}: {100 * self.growth:+.0f} %"


@dataclass(frozen=True)
class Ratio:
    """How a rival compares with the first case of its line, in two runs.

    Parameters
    ----------
    name : str
        Group, line and name of the rival.
    before, after : float
        How many times as much as the first it takes.
    sides : tuple of int
        Who is ahead in either run, as :meth:`~fastmlp.benchmarks.results.Line.side` says.
    long : bool
        Whether the line takes longer than :data:`~fastmlp.benchmarks.measuring.LONG` in both runs.
    """

    name: str
    before: float
    after: float
    sides: tuple[int, int]
    long: bool

    @property
    def turned(self) -> bool:
        """Whether each run has another ahead; a draw agrees with both."""
        return self.sides[0] * self.sides[1] < 0

    @property
    def moved(self) -> bool:
        """Whether the ratios of a long line do not agree."""
        change = max(self.before, self.after) / min(self.before, self.after) - 1
        return self.long and change > AGREEING

    def __str__(self) -> str:
        return f"{self.name}: {self.before:.2f}, now {self.after:.2f}"


def ratios(before: Results, after: Results) -> list[Ratio]:
    """Compare the ratios of all rivals that two runs have measured.

    Parameters
    ----------
    before, after : Results
        Two runs.

    Returns
    -------
    list of Ratio
        In the order of the second.
    """
    old = {(line.group, line.name): line for line in before.lines}
    found = []
    for line in after.lines:
        was = old.get((line.group, line.name))
        for row in line.rows[1:] if was else ():
            mate = was.row(row.name)
            if mate and row.extra["rival"]:
                name = f"{line.group}: {line.name}: {row.name}"
                sides = was.side(mate), line.side(row)
                long = min(was.rows[0].median, line.rows[0].median) > LONG
                found.append(Ratio(name, was.ratio(mate), line.ratio(row), sides, long))
    return found


def cost(row: Row) -> tuple[float, float]:
    """Return what a case costs in yardsticks, 10⁹ multiply-adds in registers; or its memory.

    Parameters
    ----------
    row : Row
        The case.

    Returns
    -------
    lower : float
        The lowest decile of the rounds; the bytes.
    spread : float
        From there to the lower quartile, as a share.
    """
    if row.measures_memory:
        return row.amounts[0], 0.0
    lower, quartile = np.quantile(row.seconds, [0.1, 0.25])
    return float(lower / np.quantile(row.extra["yardsticks"], 0.1)), float(quartile / lower - 1)


def drifts(before: Results, after: Results) -> dict[str, float]:
    """Return by how much the cases of each group became slower together.

    Parameters
    ----------
    before, after : Results
        Two runs.

    Returns
    -------
    dict
        The median growth of the costs by group, 0 where they fell or are few.
    """
    growths: dict[str, list[float]] = {}
    for each in _pairs(before, after):
        growths.setdefault(each.group, []).append(each.growth)
    medians = {group: float(np.median(of_group)) for group, of_group in growths.items()}
    return {
        group: max(0.0, median) if len(growths[group]) >= DRIFTING else 0.0
        for group, median in medians.items()
    }


def slower(before: Results, after: Results) -> list[Slower]:
    """Find the cases of fastmlp that became slower.

    Parameters
    ----------
    before, after : Results
        Two runs; what only one of them has is left out.

    Returns
    -------
    list of Slower
        Those whose cost grew beyond the drift of their group and the margin.
    """
    shared = drifts(before, after)
    found = (
        replace(each, drift=shared[each.group] if shared[each.group] < LARGEST_DRIFT else 0.0)
        for each in _pairs(before, after)
    )
    return [each for each in found if each.growth > each.margin]


def still_slower(suspects: list[Slower], before: Results, again: Results) -> list[Slower]:
    """Keep the cases that are slower in another run as well.

    Parameters
    ----------
    suspects : list of Slower
        Cases that looked slower.
    before : Results
        What they are compared with.
    again : Results
        A further run of their groups.

    Returns
    -------
    list of Slower
        With their costs in that run.
    """
    keys = {each.key for each in suspects}
    return [each for each in slower(before, again) if each.key in keys]


def _pairs(before: Results, after: Results) -> Iterable[Slower]:
    """Yield the cases that both runs have, slower or not."""
    old = _costs(before)
    return (Slower(*key, *old[key], *now) for key, now in _costs(after).items() if key in old)


def _costs(results: Results) -> dict[tuple[str, str, str], tuple[float, float]]:
    """Return the costs of fastmlp's own cases."""
    return {
        (line.group, line.name, row.name): cost(row)
        for line in results.lines
        for row in line.rows
        if row.extra["own"]
    }

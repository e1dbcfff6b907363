"""Which cases became slower between two runs, on a machine whose speed wanders.

Each round of a case stands beside a yardstick, multiply-adds in registers for as long. A case's
cost is the quotient of the lowest deciles of both: the clock's changes cancel, and disturbances
lie above. Where another machine shares the core, kernels and yardstick do not suffer alike, by
up to 8 % for minutes: compare runs that were made shortly one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .results import Results, Row

__all__ = ["REPETITIONS", "Slower", "cost", "slower", "still_slower"]

#: Growth of the cost that is noise; more where the rounds spread more.
THRESHOLD = 0.06

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
    """

    group: str
    line: str
    name: str
    before: float
    spread_before: float
    after: float
    spread_after: float

    @property
    def key(self) -> tuple[str, str, str]:
        """Group, line and name."""
        return self.group, self.line, self.name

    @property
    def growth(self) -> float:
        """By how much the cost grew, as a share."""
        return self.after / self.before - 1

    @property
    def margin(self) -> float:
        """What growth the noise of the two runs explains."""
        return max(THRESHOLD, self.spread_before, self.spread_after)

    def __str__(self) -> str:
        return f"{': '.join(self.key)}: {100 * self.growth:+.0f} %"


def cost(row: Row) -> tuple[float, float]:
    """Return what a case costs in yardsticks, 10⁹ multiply-adds in registers.

    Parameters
    ----------
    row : Row
        The case.

    Returns
    -------
    lower : float
        The lowest decile of the rounds.
    spread : float
        From there to the lower quartile, as a share.
    """
    lower, quartile = np.quantile(row.seconds, [0.1, 0.25])
    return float(lower / np.quantile(row.extra["yardsticks"], 0.1)), float(quartile / lower - 1)


def slower(before: Results, after: Results) -> list[Slower]:
    """Find the cases of fastmlp that became slower.

    Parameters
    ----------
    before, after : Results
        Two runs; what only one of them has is left out.

    Returns
    -------
    list of Slower
        Those whose cost grew beyond the margin.
    """
    old = _costs(before)
    found = [Slower(*key, *old[key], *now) for key, now in _costs(after).items() if key in old]
    return [each for each in found if each.growth > each.margin]


def still_slower(suspects: list[Slower], again: Results) -> list[Slower]:
    """Keep the cases that are slower in another run as well.

    Parameters
    ----------
    suspects : list of Slower
        Cases that looked slower.
    again : Results
        A run of their lines.

    Returns
    -------
    list of Slower
        With their costs in that run.
    """
    now = _costs(again)
    seen = [
        Slower(*s.key, s.before, s.spread_before, *now[s.key]) for s in suspects if s.key in now
    ]
    return [each for each in seen if each.growth > each.margin]


def _costs(results: Results) -> dict[tuple[str, str, str], tuple[float, float]]:
    """Return the costs of fastmlp's own cases."""
    return {
        (line.group, line.name, row.name): cost(row)
        for line in results.lines
        for row in line.rows
        if row.extra["own"]
    }

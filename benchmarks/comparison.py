"""Which cases became slower between two runs, on a machine whose speed wanders.

Each round of a case stands beside a yardstick, multiply-adds in registers. A case's cost is the
least quotient of both over the rounds: disturbances only add, and the clock's changes cancel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .results import Results, Row

__all__ = ["REPETITIONS", "Slower", "cost", "slower", "still_slower"]

#: A case is slower if its cost grew by more than this share.
THRESHOLD = 0.05

#: How often a case that looks slower is measured again before that is believed.
REPETITIONS = 3


@dataclass(frozen=True)
class Slower:
    """A case that became slower.

    Parameters
    ----------
    group, line, name : str
        Which case.
    before, after : float
        Costs in the two runs, the least that was seen.
    """

    group: str
    line: str
    name: str
    before: float
    after: float

    @property
    def key(self) -> tuple[str, str, str]:
        """Group, line and name."""
        return self.group, self.line, self.name

    def __str__(self) -> str:
        growth = 100 * (self.after / self.before - 1)
        return f"{': '.join(self.key)}: {growth:+.0f} %"


def cost(row: Row) -> float:
    """Return a case's cost in yardsticks, 10⁹ multiply-adds in registers.

    Parameters
    ----------
    row : Row
        The case.

    Returns
    -------
    float
        The least of the rounds.
    """
    return min(s / y for s, y in zip(row.seconds, row.extra["yardsticks"], strict=True))


def slower(before: Results, after: Results) -> list[Slower]:
    """Find the cases of fastmlp that became slower.

    Parameters
    ----------
    before, after : Results
        Two runs; what only one of them has is left out.

    Returns
    -------
    list of Slower
        In the order of the later run.
    """
    old, found = _costs(before), []
    for key, now in _costs(after).items():
        if key in old and now > (1 + THRESHOLD) * old[key]:
            found.append(Slower(*key, old[key], now))
    return found


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
        With the least cost that was seen.
    """
    costs = _costs(again)
    seen = [replace(s, after=min(s.after, costs.get(s.key, s.after))) for s in suspects]
    return [each for each in seen if each.after > (1 + THRESHOLD) * each.before]


def _costs(results: Results) -> dict[tuple[str, str, str], float]:
    """Return the costs of fastmlp's own cases."""
    return {
        (line.group, line.name, row.name): cost(row)
        for line in results.lines
        for row in line.rows
        if row.extra["own"]
    }

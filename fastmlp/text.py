"""Tables for people to read."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["aligned_table", "duration"]


def aligned_table(rows: Sequence[Sequence[str]], align: str = "<") -> str:
    """Lay rows of text out in columns.

    Parameters
    ----------
    rows : sequence of sequence of str
        Cells, as many in each row.
    align : {"<", ">"}, default="<"
        Left or right.

    Returns
    -------
    str
        A line for each row.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            f"{cell:{align}{width}}" for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    )


def duration(seconds: float) -> str:
    """Write a duration with the unit that suits it.

    Parameters
    ----------
    seconds : float
        The duration.

    Returns
    -------
    str
        Three digits, in s, ms or µs.
    """
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"

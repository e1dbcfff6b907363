"""Tables for people to read."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["aligned_table"]


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

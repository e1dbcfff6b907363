"""Split long runs of kernels so that Ctrl-C and progress bars get their turn."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter

__all__ = ["Pace"]

#: Aim for one call; kernels cannot be interrupted, and 100 ms is the limit.
SECONDS_PER_CALL = 0.05
LARGEST_GROWTH = 8
#: Operations a second of the slowest backend, and items that never take it as long as a call
#: because there is little to do in each.
LEAST_SPEED = 1e9
MOST_AT_FIRST = 64


class Pace:
    """Sizes of calls that follow the measured speed.

    Parameters
    ----------
    size : int, default=1
        Items of the first call.
    """

    def __init__(self, size: int = 1) -> None:
        self.size = size

    @classmethod
    def of_work(cls, operations: float) -> Pace:
        """Return a pace for items whose cost is roughly known.

        Parameters
        ----------
        operations : float
            Floating-point operations of an item.

        Returns
        -------
        Pace
            Whose first call is short on any backend.
        """
        size = SECONDS_PER_CALL * LEAST_SPEED / max(operations, 1)
        return cls(max(1, int(min(size, MOST_AT_FIRST))))

    def slices(self, n: int) -> Iterator[slice]:
        """Cut ``range(n)`` into pieces, timing what the caller does with each.

        Parameters
        ----------
        n : int
            Number of items.

        Yields
        ------
        slice
            Piece after piece, with a start and a stop.
        """
        start = 0
        while start < n:
            stop = min(start + self.size, n)
            began = perf_counter()
            yield slice(start, stop)
            rate = (stop - start) / max(perf_counter() - began, 1e-9)
            self.size = max(1, int(min(rate * SECONDS_PER_CALL, LARGEST_GROWTH * self.size)))
            start = stop

"""The largest batch that fits into memory, in few trials. Pure: what is tried is the caller's."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence


def divisors(number: int) -> list[int]:
    """Return the divisors of a number from 1 on, in ascending order."""
    return [n for n in range(1, number + 1) if number % n == 0]


def largest_that_fits(
    peak: Callable[[int], int | None],
    sizes: Sequence[int],
    budget: int,
    start: int,
    exact: float = 0.0,
) -> int | None:
    """Return the largest size whose peak of memory is within a budget; None where none is.

    Doubles until a size does not fit, then halves the rest. Two sizes that fit give a line, and
    nothing is tried that is beyond the budget by it as long as something smaller is left to try. A
    size is tried once at most, and none that is not smaller than one that did not fit.

    Args:
        peak: size → bytes; None where it ran out of memory. Must not fall with the size.
        sizes: what may be taken, in ascending order.
        budget: bytes.
        start: the size to begin with; the next smaller one of ``sizes`` where it is not in there.
        exact: how much larger, in parts of what fits, the true limit may be.
    """
    found = _Found(sizes, budget)
    at = max(0, bisect.bisect_right(sizes, start) - 1)
    while found.is_open(exact):
        found.note(at, peak(sizes[at]))
        at = found.next()
    return sizes[found.good] if found.good >= 0 else None


class _Found:
    """What is known: everything up to index ``good`` fits, nothing from index ``bad`` on."""

    def __init__(self, sizes: Sequence[int], budget: int) -> None:
        self.sizes, self.budget = sizes, budget
        self.good, self.bad = -1, len(sizes)
        self._peaks: list[tuple[int, int]] = []  # of what fitted: size and bytes, ascending

    def is_open(self, exact: float) -> bool:
        if self.bad - self.good <= 1:
            return False
        if self.good < 0 or self.bad == len(self.sizes):
            return True
        return self.sizes[self.bad - 1] > self.sizes[self.good] * (1 + exact)

    def note(self, at: int, peak: int | None) -> None:
        if peak is not None and peak <= self.budget:
            self.good = at
            self._peaks.append((self.sizes[at], peak))
        else:
            self.bad = at

    def next(self) -> int:
        """Return the index to try next, strictly between ``good`` and ``bad``."""
        if self.good < 0:
            half = bisect.bisect_right(self.sizes, self.sizes[self.bad] // 2) - 1
            at = half if self.bad < len(self.sizes) else 0
        elif self.bad == len(self.sizes):
            at = bisect.bisect_right(self.sizes, 2 * self.sizes[self.good]) - 1
            at = min(at, self._by_line())
        else:
            at = min((self.good + self.bad) // 2, self._by_line())
        return max(self.good + 1, min(at, self.bad - 1))

    def _by_line(self) -> int:
        """Return the index of the largest size within the budget by the last two that fitted."""
        if len(self._peaks) < 2:
            return len(self.sizes) - 1
        (small, less), (large, more) = self._peaks[-2:]
        slope = (more - less) / (large - small)
        if slope <= 0:
            return len(self.sizes) - 1
        return bisect.bisect_right(self.sizes, large + (self.budget - more) / slope) - 1

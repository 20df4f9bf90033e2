"""The largest batch that fits into memory, in few trials. Pure: what is tried is the caller's."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence

_TRUST = 3  # times that a line is followed


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

    Doubles until a size does not fit, then halves the rest. Memory nearly always lies on a line:
    two sizes that fit show it, and what reaches the budget by it is tried first. A few tries after,
    halving goes on without it, so that any other shape takes few trials too. A size is tried once
    at most, and none that is not smaller than one that did not fit.

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
        self._trust = _TRUST

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
        """Return the index to try next, between ``good`` and ``bad``."""
        at = self._by_line()
        if at is None and self.good >= 0 and self.bad == len(self.sizes):
            at = bisect.bisect_right(self.sizes, 2 * self.sizes[self.good]) - 1
        elif at is None:
            at = (self.good + self.bad) // 2
        return max(self.good + 1, min(at, self.bad - 1))

    def _by_line(self) -> int | None:
        """Return the index of the largest size within the budget by the last two that fitted."""
        if len(self._peaks) < 2 or not self._trust:
            return None
        (small, less), (large, more) = self._peaks[-2:]
        if more <= less:
            return None
        self._trust -= 1
        reached = large + (self.budget - more) * (large - small) // (more - less)
        return bisect.bisect_right(self.sizes, reached) - 1

"""Threads that share the parts of a task."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait

from luthier.threads import computing_alone


class Task:
    """Parts of a task under way."""

    def __init__(self, shares: list[Future[None]]) -> None:
        self._shares = shares

    def finish(self) -> None:
        """Wait for all parts; the first error among them is raised then."""
        wait(self._shares)
        for share in self._shares:
            share.result()

    def cancel(self) -> None:
        """Begin nothing more of it."""
        for share in self._shares:
            share.cancel()


class Crew:
    """Threads, each of which computes with a single thread of torch's.

    Args:
        size: how many.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._pool = computing_alone(size, "photos")

    def begin(self, part: Callable[[int], object], parts: int) -> Task:
        """Let ``part`` be called with each number below ``parts``, the lower ones first."""
        numbers = iter(range(parts))
        shares = min(self._size, parts)
        return Task([self._pool.submit(_work, part, numbers) for _ in range(shares)])

    def close(self) -> None:
        """End the threads once they have done what was begun."""
        self._pool.shutdown(cancel_futures=True)


def _work(part: Callable[[int], object], numbers: Iterator[int]) -> None:
    for number in numbers:
        part(number)

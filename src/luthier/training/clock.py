"""Where the time of a run goes."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


class Clock:
    """Sums the seconds that are spent on each kind of work.

    Attributes:
        seconds: by kind, such as "waiting for data".
    """

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    @contextlib.contextmanager
    def on(self, kind: str) -> Iterator[None]:
        """Count the time inside."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[kind] += time.perf_counter() - began  # type: ignore[assignment]

    def awaited(self, kind: str, items: Iterable[T]) -> Iterator[T]:
        """Count the time that it takes until each item is there."""
        remaining = iter(items)
        while True:
            began = time.perf_counter()
            try:
                item = next(remaining)
            except StopIteration:
                return
            finally:
                self.seconds[kind] += time.perf_counter() - began  # type: ignore[assignment]
            yield item

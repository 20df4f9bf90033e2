"""Which images of a batch, or which batches, a process has. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """What one of several processes computes of batches that all of them agree on.

    Attributes:
        rank: of the process, from 0.
        size: number of processes.
        whole: batches go round whole, as in validation; else each is cut into as many pieces, as
            equal as can be, of which the first are the larger ones.
    """

    rank: int = 0
    size: int = 1
    whole: bool = False

    def of(self, batches: Sequence[Sequence[T]]) -> list[Sequence[T]]:
        """Return this process's part of the batches of an epoch."""
        if self.whole:
            return list(batches[self.rank :: self.size])
        return [batch[slice(*self.bounds(len(batch)))] for batch in batches]

    def bounds(self, images: int) -> tuple[int, int]:
        """Return where this process's piece of a batch begins and ends."""
        each, more = divmod(images, self.size)
        start = self.rank * each + min(self.rank, more)
        return start, start + each + (self.rank < more)

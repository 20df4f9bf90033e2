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
        pieces: into which each batch is cut; as many to each process. By default one.
    """

    rank: int = 0
    size: int = 1
    whole: bool = False
    pieces: int | None = None

    def of(self, batches: Sequence[Sequence[T]]) -> list[Sequence[T]]:
        """Return this process's part of the batches of an epoch."""
        if self.whole:
            return list(batches[self.rank :: self.size])
        return [batch[slice(*self.bounds(len(batch)))] for batch in batches]

    def bounds(self, images: int) -> tuple[int, int]:
        """Return where this process's pieces of a batch begin and end."""
        pieces = self.size if self.pieces is None else self.pieces
        each, more = divmod(images, pieces)
        mine = pieces // self.size
        first, last = self.rank * mine, (self.rank + 1) * mine
        return first * each + min(first, more), last * each + min(last, more)

"""Where a run stands, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from luthier.values import Position, Score, Tally


@dataclass
class Progress:
    """Where a run stands; with tensors it is all that a checkpoint holds.

    Attributes:
        at: the position.
        tally: sums over the batches of the current epoch.
        best: the best validation so far.
        last: the latest.
        before: that of the start, where it was scored before the first step.
        stale: epochs since the best.
        start: digest of every tensor before the first step.
        lines: of ``metrics.jsonl``.
        micro: images that go through the model at once; None: whole batches.
    """

    at: Position = field(default_factory=Position)
    tally: Tally = field(default_factory=Tally)
    best: Score | None = None
    last: Score | None = None
    before: Score | None = None
    stale: int = 0
    start: dict[str, str] = field(default_factory=dict)
    lines: int = 0
    micro: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "position": vars(self.at),
            "tally": vars(self.tally),
            "best": self.best and self.best.as_dict(),
            "last": self.last and self.last.as_dict(),
            "before": self.before and self.before.as_dict(),
            "stale": self.stale,
            "start": self.start,
            "lines": self.lines,
            "micro": self.micro,
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Progress:
        """Return the progress that ``as_dict`` described."""
        return cls(
            at=Position(**value["position"]),
            tally=Tally(**value["tally"]),
            best=value["best"] and Score.from_dict(value["best"]),
            last=value["last"] and Score.from_dict(value["last"]),
            before=value["before"] and Score.from_dict(value["before"]),
            stale=value["stale"],
            start=value["start"],
            lines=value["lines"],
            micro=value["micro"],
        )

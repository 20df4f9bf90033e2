"""What is found about one thing that was checked: a plain frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Level = Literal["ok", "warning", "fault"]
LEVELS: tuple[Level, ...] = ("ok", "warning", "fault")


@dataclass(frozen=True)
class Finding:
    """What is found about one thing.

    Attributes:
        name: of what was checked.
        level: "fault" is what stops a run, "warning" what slows it or breaks something beside it.
        state: which of the things that can be found about it.
        facts: that go into its sentence; sizes end in ``_bytes``.
    """

    name: str
    level: Level
    state: str = "ok"
    facts: Mapping[str, object] = field(default_factory=dict)


def ok(name: str, state: str = "ok", /, **facts: object) -> Finding:
    """Return what is as it should be."""
    return Finding(name, "ok", state, facts)


def warning(name: str, state: str, /, **facts: object) -> Finding:
    """Return what a run goes on without."""
    return Finding(name, "warning", state, facts)


def fault(name: str, state: str, /, **facts: object) -> Finding:
    """Return what stops a run."""
    return Finding(name, "fault", state, facts)

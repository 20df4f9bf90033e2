"""Figures, their goals, and the files and tables that they are kept in."""

from __future__ import annotations

import datetime
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Figure:
    """A number of a row, over all rounds.

    Attributes:
        name: what it is of.
        value: the median of the rounds.
        low: the least of them.
        high: the greatest of them.
        unit: such as "x" (times) or "µs".
        goal: what it should reach; None for a figure that is only reported.
        at_most: whether the goal is the most that it may be, not the least.
        noise: whether ``low`` and ``high`` are an interval that has to reach the goal, where the
            value itself may miss it by chance.
    """

    name: str
    value: float
    low: float
    high: float
    unit: str = "x"
    goal: float | None = None
    at_most: bool = False
    noise: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        if self.goal is None:
            return None
        value = self.value
        if self.noise:
            value = self.low if self.at_most else self.high
        return value <= self.goal if self.at_most else value >= self.goal


def figure(name: str, values: Sequence[float], **facts: Any) -> Figure:
    """Return the figure of one value a round.

    Args:
        name: what it is of.
        values: at least one.
        **facts: unit and goal.
    """
    return Figure(name, statistics.median(values), min(values), max(values), **facts)


@dataclass(frozen=True)
class Row:
    """What a row of the benchmark came to.

    Attributes:
        name: of the row, and of its file.
        title: one line for people.
        settings: that the figures depend on.
        figures: with their goals.
        failures: of peers that could not be measured, by name.
        runs: what every process reported.
        lines: a script's own output, where that says more.
    """

    name: str
    title: str
    settings: dict[str, Any]
    figures: list[Figure]
    failures: dict[str, str] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


def write(row: Row, form: str, machine: dict[str, Any], folder: Path) -> Path:
    """Write a row's file and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{row.name}.json"
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    content = {**asdict(row), "form": form, "taken": today, "machine": machine}
    text = json.dumps(content, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def read(path: Path) -> tuple[Row, dict[str, Any]]:
    """Return a row and the rest of its file: form, day and machine."""
    content = json.loads(path.read_text(encoding="utf-8"))
    rest = {name: content.pop(name) for name in ("form", "taken", "machine")}
    figures = [Figure(**values) for values in content.pop("figures")]
    return Row(**content, figures=figures), rest


def cells(found: Figure) -> list[str]:
    """Return a figure as what is measured, its value, its range, its goal and whether it is met."""
    goal = "" if found.goal is None else f"{'≤' if found.at_most else '≥'} {found.goal:g}"
    met = {True: "yes", False: "no", None: ""}[found.met]
    spread = "" if found.low == found.high else f"{found.low:.3g} to {found.high:.3g}"
    return [found.name, f"{found.value:.3g} {found.unit}", spread, goal, met]

"""Where the time of a run went, in one line."""

from __future__ import annotations

from collections.abc import Mapping


def time_line(seconds: Mapping[str, float], total: float) -> str:
    """Return the line that ends a run, such as ``"time 61 s: computing 95 %, saving 3 %, …"``.

    Args:
        seconds: by kind of work; what is left of the total was computing.
        total: seconds in all.
    """
    spent = {"computing": max(0.0, total - sum(seconds.values())), **seconds}
    parts = sorted(spent.items(), key=lambda part: -part[1])
    said = ", ".join(f"{kind} {_percent(each, total)}" for kind, each in parts)
    return f"time {total:.1f} s: {said}"


def _percent(part: float, total: float) -> str:
    percent = 100 * part / total if total else 0.0
    return f"{percent:.0f} %" if percent >= 1 or not percent else "under 1 %"

"""Where time went, in words."""

from __future__ import annotations

from collections.abc import Mapping

DATA, COPYING, COMPUTING = "waiting for data", "copying", "computing"
_BOUND = 0.2  # of a step: below, more speed there would gain little


def breakdown(seconds: Mapping[str, float]) -> str:
    """Return the parts of a whole, such as ``"computing 97 %, waiting for data 3 %"``.

    Args:
        seconds: by kind of work; the largest comes first.
    """
    parts = sorted(_shares(seconds).items(), key=lambda part: -part[1])
    return ", ".join(f"{kind} {_percent(share)}" for kind, share in parts)


def time_line(seconds: Mapping[str, float], total: float) -> str:
    """Return the line that ends a run, such as ``"time 61.0 s: computing 95 %, …; compute-bound"``.

    Args:
        seconds: by kind of work; what is left of the total was computing.
        total: seconds in all.
    """
    parts = spent(seconds, total)
    return f"time {total:.1f} s: {breakdown(parts)}; {verdict(parts).partition(':')[0]}"


def spent(seconds: Mapping[str, float], total: float) -> dict[str, float]:
    """Return the seconds by kind of work, of which what is left of the total was computing."""
    return {COMPUTING: max(0.0, total - sum(seconds.values())), **seconds}


def verdict(seconds: Mapping[str, float]) -> str:
    """Return what a step is bound by, such as ``"input-bound: 61 % of a step waits for data"``.

    It is bound by its input where a fifth of it at least is spent waiting for that, even where
    computing takes more: that is what a setting can win without another model.

    Args:
        seconds: by kind of work.
    """
    parts = {DATA: 0.0, COPYING: 0.0, COMPUTING: 0.0} | _shares(seconds)
    if parts[DATA] >= _BOUND and parts[DATA] >= parts[COPYING]:
        return f"input-bound: {_percent(parts[DATA])} of a step waits for data"
    if parts[COPYING] >= _BOUND:
        return f"copy-bound: {_percent(parts[COPYING])} of a step copies to the device"
    return f"compute-bound: {_percent(parts[COMPUTING])} of a step computes"


def _shares(seconds: Mapping[str, float]) -> dict[str, float]:
    whole = sum(seconds.values())
    return {kind: each / whole if whole else 0.0 for kind, each in seconds.items()}


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 or not share else "under 1 %"

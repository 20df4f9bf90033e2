"""Where the time of a step goes, in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping

DATA, COPYING, COMPUTING = "waiting for data", "copying", "computing"
_BOUND = 0.2  # of a step: below, more speed there would gain little


def shares(kinds: Mapping[str, float]) -> dict[str, float]:
    """Return each kind's part of the whole."""
    whole = sum(kinds.values())
    return {kind: seconds / whole if whole else 0.0 for kind, seconds in kinds.items()}


def breakdown(kinds: Mapping[str, float]) -> str:
    """Return the parts, such as ``"computing 97 %, waiting for data 3 %"``, the largest first."""
    parts = sorted(shares(kinds).items(), key=lambda part: -part[1])
    return ", ".join(f"{kind} {100 * share:.0f} %" for kind, share in parts)


def verdict(kinds: Mapping[str, float]) -> str:
    """Return what a step is bound by, such as ``"input-bound: 61 % of a step waits for data"``.

    It is bound by its input where a fifth of it at least is spent waiting for that, even where
    computing takes more: that is what a setting can win without another model.
    """
    parts = {DATA: 0.0, COPYING: 0.0, COMPUTING: 0.0} | shares(kinds)
    if parts[DATA] >= _BOUND and parts[DATA] >= parts[COPYING]:
        return f"input-bound: {100 * parts[DATA]:.0f} % of a step waits for data"
    if parts[COPYING] >= _BOUND:
        return f"copy-bound: {100 * parts[COPYING]:.0f} % of a step copies to the device"
    return f"compute-bound: {100 * parts[COMPUTING]:.0f} % of a step computes"

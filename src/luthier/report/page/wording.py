"""Numbers in words, the same on every page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from luthier.values import Proportion, Score

NONE = "\N{EN DASH}"


def percent(share: float, digits: int = 1) -> str:
    """Return a share such as ``"96.1 %"``, which is not broken; a dash where there is none."""
    return f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%" if math.isfinite(share) else NONE


def interval(accuracy: Proportion) -> str:
    """Return the 95 % interval, such as ``"91.7 to 98.2 %"``."""
    low, high = accuracy.interval()
    return f"{100 * low:.1f} to {percent(high)}"


def score(what: Score) -> str:
    """Return a validation such as ``"96.08 % (147 of 153, epoch 2)"``."""
    accuracy = what.accuracy
    counts = f"{accuracy.correct} of {accuracy.total}, epoch {what.epoch}"
    return f"{percent(accuracy.value, 2)} ({counts})"


def duration(seconds: float) -> str:
    """Return a time such as ``"24.2 s"``, ``"2 min 45 s"`` or ``"2 h 05 min"``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def count(number: int) -> str:
    """Return a number with a thin space between its thousands."""
    return f"{number:,}".replace(",", "\u202f")


def size(nbytes: int) -> str:
    """Return a number of bytes such as ``"9.1 MB"``."""
    return f"{nbytes / 1e6:.1f} MB" if nbytes >= 100_000 else f"{nbytes / 1e3:.1f} kB"


def loss(value: float) -> str:
    """Return a loss."""
    return f"{value:.3f}"


def short(value: float) -> str:
    """Return a number in a few digits: of ticks and learning rates."""
    return f"{value:.3g}"


def said(value: object) -> str:
    """Return a plain value of a recipe or an environment."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(said, value))
    return NONE if value is None else str(value)

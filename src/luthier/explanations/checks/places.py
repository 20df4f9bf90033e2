"""Where an error was raised: by the frames of its traceback alone. Pure."""

from __future__ import annotations

import re

from luthier.explanations.values import Case, Facts

_RAISES = re.compile(r"(?:^|[:;])\s*(?:raise|assert)\b")


def native(case: Case) -> Facts | None:
    """Say no more, but only of what compiled code says: no line of Python raised it."""
    return None if _RAISES.search(source(case)) else {}


def by_torch(case: Case) -> Facts | None:
    """Say no more, but only of what torch's own Python raised."""
    return raised_in(case, "/torch/")


def by_torchvision(case: Case) -> Facts | None:
    """Say no more, but only of what torchvision raised."""
    return raised_in(case, "/torchvision/")


def by_pillow(case: Case) -> Facts | None:
    """Say no more, but only of what Pillow raised."""
    return raised_in(case, "/PIL/")


def raised_in(case: Case, part: str) -> Facts | None:
    """Return no facts, or None where the innermost file is another's."""
    last = case.raised.innermost
    return {} if last is None or part in last.file else None


def within(case: Case, part: str) -> bool:
    """Return whether any call was in a file whose path has a part."""
    return any(part in frame.file for frame in case.raised.frames)


def source(case: Case) -> str:
    """Return the line at which an error was raised, as far as it is known."""
    last = case.raised.innermost
    return last.source if last else ""

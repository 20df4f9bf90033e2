"""A range of the length of the universe, a slice, and a device of a strange kind.

They are plain values; nothing of their length is ever made.
"""

from __future__ import annotations

from pathlib import Path

from pickles_by_hand import Called, pickled, write


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    values = [
        Called("builtins", "range", 0, 1 << 200, 1),
        Called("builtins", "slice", 0, 1 << 200, None),
        Called("torch", "device", "cuda:" * 1000, 1 << 200),
    ]
    return write(folder, pickled(values))

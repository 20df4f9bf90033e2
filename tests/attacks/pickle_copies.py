"""A list of a million items, and a thousand calls that copy it.

Copies are on the account before they are made.
"""

from __future__ import annotations

from pathlib import Path

from pickles_by_hand import Raw, pickled, write


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    items = b"](" + b"N" * 1_000_000 + b"eq\x01"
    call = b"ccollections\ndeque\nh\x01\x85R"
    return write(folder, pickled(Raw(items + call * 1000)))

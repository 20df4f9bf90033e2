"""A pickle without STOP, for readers that go on behind its end.

It is truncated, and said to be.
"""

from __future__ import annotations

from pathlib import Path

from pickles_by_hand import Raw, opcodes, touch, write


def build(folder: Path, marker: Path) -> Path:
    return write(folder, b"\x80\x02" + opcodes(Raw(opcodes(touch(marker)))))

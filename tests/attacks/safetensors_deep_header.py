"""A header of a million nested lists: a reader that calls itself for each runs out of stack.

The cost of such JSON is estimated before it is parsed, and the parser gives up at Python's limit.
"""

from __future__ import annotations

from pathlib import Path


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    header = b'{"a":' + b"[" * 400_000 + b"]" * 400_000 + b"}"
    path = folder / "weights.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"")
    return path

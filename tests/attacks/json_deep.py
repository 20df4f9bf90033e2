"""JSON of a million nested objects in place of an index.

The cost of such JSON is estimated before it is parsed, and the parser gives up at Python's limit.
"""

from __future__ import annotations

from pathlib import Path


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    path = folder / "model.safetensors.index.json"
    path.write_bytes(b'{"a":' * 200_000 + b"1" + b"}" * 200_000)
    return path

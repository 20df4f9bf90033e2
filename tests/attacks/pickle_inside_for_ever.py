"""A torch file in a torch file in a torch file, forty deep.

Files inside files have a limit.
"""

from __future__ import annotations

from pathlib import Path

from pickles_by_hand import Called, Raw, pickled, write


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    content: object = 0
    for _ in range(40):
        parts = (0x1950A86A20F9469CFC6C, 1001, {}, content, [])
        inner = b"".join(map(pickled, parts))
        inner = Raw(b"B" + len(inner).to_bytes(4, "little") + inner)
        content = Called("torch.storage", "_load_from_bytes", inner)
    return write(folder, pickled(content))

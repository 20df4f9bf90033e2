"""A byte order that is none: numbers that each reader understands in its own way.

It is little or big, or the file is damaged.
"""

from __future__ import annotations

from pathlib import Path

from zips_by_hand import Part, pack, payload, torch_parts, write


def build(folder: Path, marker: Path) -> Path:
    return write(
        folder, pack([*torch_parts(payload(marker)), Part(b"archive/byteorder", b"middle")])
    )

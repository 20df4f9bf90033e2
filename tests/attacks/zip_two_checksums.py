"""A header with another CRC-32 than the central directory: which one is compared decides.

They must be the same.
"""

from __future__ import annotations

from pathlib import Path

from zips_by_hand import Part, pack, payload, write


def build(folder: Path, marker: Path) -> Path:
    return write(folder, pack([Part(b"archive/data.pkl", payload(marker), local={"crc": 1})]))

"""A CRC-32 that is wrong everywhere: a pickle that was changed after it was written.

It is compared before the content is looked at.
"""

from __future__ import annotations

from pathlib import Path

from zips_by_hand import Part, pack, payload, write


def build(folder: Path, marker: Path) -> Path:
    lies = {"crc": 0x12345678}
    part = Part(b"archive/data.pkl", payload(marker), local=lies, central=lies)
    return write(folder, pack([part]))

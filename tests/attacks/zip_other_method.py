"""An entry that is compressed in a way that few readers know, and scanners skip.

Only stored and deflated entries are read.
"""

from __future__ import annotations

from pathlib import Path

from zips_by_hand import Part, pack, payload, write


def build(folder: Path, marker: Path) -> Path:
    lies = {"method": 93}
    part = Part(b"archive/data.pkl", payload(marker), local=lies, central=lies)
    return write(folder, pack([part]))

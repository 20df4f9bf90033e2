"""An encrypted entry: a scanner cannot look into it, a loader may ask for the password.

It is refused.
"""

from __future__ import annotations

from pathlib import Path

from zips_by_hand import Part, pack, payload, write


def build(folder: Path, marker: Path) -> Path:
    lies = {"flags": 0x801}
    part = Part(b"archive/data.pkl", payload(marker), local=lies, central=lies)
    return write(folder, pack([part]))

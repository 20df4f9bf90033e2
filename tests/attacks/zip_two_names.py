"""An entry with one name before its content and another in the central directory.

Readers that go through the file see a README, those that use the directory a pickle.
"""

from __future__ import annotations

from pathlib import Path

from zips_by_hand import Part, pack, payload, write


def build(folder: Path, marker: Path) -> Path:
    lies = {"name": b"archive/README"}
    return write(folder, pack([Part(b"archive/data.pkl", payload(marker), local=lies)]))

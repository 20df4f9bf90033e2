"""A deflated entry that says that it has 64 bytes, and inflates to 64 megabytes.

Inflating stops at the first byte too many.
"""

from __future__ import annotations

from pathlib import Path

from zips_by_hand import Part, deflated, pack, write


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    lies = {"method": 8}
    raw = deflated(bytes(1 << 26))
    part = Part(b"archive/data.pkl", bytes(64), raw=raw, local=lies, central=lies)
    return write(folder, pack([part]))

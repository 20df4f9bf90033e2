"""Two bytes of deflate that say that they inflate to 40 megabytes: memory is taken at their word.

deflate gives at most 1032 bytes for one.
"""

from __future__ import annotations

from pathlib import Path

from zips_by_hand import Part, deflated, pack, write


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    lies = {"method": 8, "size": 40 << 20}
    raw = deflated(b"")
    return write(folder, pack([Part(b"archive/data.pkl", raw=raw, local=lies, central=lies)]))

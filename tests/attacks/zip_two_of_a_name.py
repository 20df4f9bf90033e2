"""Two entries of one name: a scanner looks at the first, a loader takes the last.

A name that is there twice is damage.
"""

from __future__ import annotations

from pathlib import Path

from zips_by_hand import Part, pack, payload, torch_parts, write


def build(folder: Path, marker: Path) -> Path:
    parts = [*torch_parts(b"\x80\x02}."), Part(b"archive/data.pkl", payload(marker))]
    return write(folder, pack(parts))

"""Bytes between two entries that belong to none: room for an entry that only some readers see.

The entries fill the file without gaps.
"""

from __future__ import annotations

from pathlib import Path

from zips_by_hand import Part, local_header, pack, payload, torch_parts, write


def build(folder: Path, marker: Path) -> Path:
    hidden = Part(b"archive/data.pkl", payload(marker))
    parts = torch_parts(b"\x80\x02}.")
    parts[0].behind = local_header(hidden) + hidden.content
    return write(folder, pack(parts))

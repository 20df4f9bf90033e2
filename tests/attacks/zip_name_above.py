"""A record called "archive/../../.bashrc": unpacking it writes outside of the folder.

luthier unpacks nothing, and refuses such an archive all the same.
"""

from __future__ import annotations

from pathlib import Path

from zips_by_hand import Part, pack, torch_parts, write


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    parts = [*torch_parts(b"\x80\x02}."), Part(b"archive/../../.bashrc", b"harm")]
    return write(folder, pack(parts))

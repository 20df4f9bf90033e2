"""128 megabytes of zeros in as many kilobytes.

What an entry inflates to must fit the file's size plus an allowance; it is not begun otherwise.
"""

from __future__ import annotations

from pathlib import Path

from zips_by_hand import Part, pack, torch_parts, write


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    zeros = Part(b"archive/data/0", bytes(1 << 27), deflate=True)
    return write(folder, pack([*torch_parts(b"\x80\x02}."), zeros]))

"""A record that is a symbolic link to a file elsewhere, which it gives once it is unpacked.

Entries are files, or folders without content.
"""

from __future__ import annotations

from pathlib import Path

from zips_by_hand import Part, pack, torch_parts, write


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    link = Part(
        b"archive/data/0",
        b"/etc/passwd",
        central={"made_by": 3 << 8, "attributes": 0o120777 << 16},
    )
    return write(folder, pack([*torch_parts(b"\x80\x02}."), link]))

"""A record with an absolute name.

Names lie below the archive's folder.
"""

from __future__ import annotations

from pathlib import Path

from zips_by_hand import Part, pack, torch_parts, write


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    return write(folder, pack([*torch_parts(b"\x80\x02}."), Part(b"/etc/cron.d/job", b"harm")]))

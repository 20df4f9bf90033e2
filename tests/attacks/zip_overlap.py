"""A thousand entries that share one content (Fifield 2019): each small, together a bomb.

Entries follow one another; none begins inside another.
"""

from __future__ import annotations

from pathlib import Path

from zips_by_hand import Part, central_header, end, local_header, payload, write


def build(folder: Path, marker: Path) -> Path:
    part = Part(b"archive/data.pkl", payload(marker))
    content = local_header(part) + part.content
    parts = [part, *(Part(b"archive/data/%d" % number, part.content) for number in range(999))]
    directory = b"".join(central_header(part, 0) for part in parts)
    return write(folder, content + directory + end(len(parts), len(directory), len(content)))

"""An entry whose header lies in the content of another, a stored one: a file within a file.

A scanner sees one storage; a loader reads a pickle out of it.
"""

from __future__ import annotations

from pathlib import Path

from zips_by_hand import Part, central_header, end, local_header, payload, write


def build(folder: Path, marker: Path) -> Path:
    inner = Part(b"archive/data.pkl", payload(marker))
    outer = Part(b"archive/data/0", b"0" * 16 + local_header(inner) + inner.content)
    content = local_header(outer) + outer.content
    begin = len(content) - len(inner.content) - len(local_header(inner))
    directory = central_header(outer, 0) + central_header(inner, begin)
    return write(folder, content + directory + end(2, len(directory), len(content)))

"""Two end records, of which the one of zip64 points to another directory.

Readers that know zip64 see another archive than those that do not.
"""

from __future__ import annotations

import struct
from pathlib import Path

from zips_by_hand import Part, central_header, end, local_header, payload, write


def build(folder: Path, marker: Path) -> Path:
    shown, hidden = Part(b"archive/data.pkl", b"\x80\x02}."), Part(b"archive/data.pkl")
    hidden.content = payload(marker)
    content = local_header(shown) + shown.content
    second = len(content)
    content += local_header(hidden) + hidden.content
    start = len(content)
    first_directory, second_directory = central_header(shown, 0), central_header(hidden, second)
    content += first_directory + second_directory
    record = struct.pack(
        "<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1,
        len(second_directory), start + len(first_directory),
    )  # fmt: skip
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, len(content), 1)
    return write(folder, content + record + locator + end(1, len(first_directory), start))

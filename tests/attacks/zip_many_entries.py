"""Six hundred thousand empty entries: each costs ten times its bytes as an object.

What they cost is on the file's budget.
"""

from __future__ import annotations

import struct
from pathlib import Path

from zips_by_hand import write

COUNT = 600_000


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    local = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 0, 0, 0, 0, 0, 0, 4, 0)
    central = struct.Struct("<4s6H3L5H2L")
    contents, directory = [], []
    for number in range(COUNT):
        name = number.to_bytes(4, "little").replace(b"\0", b"~")
        contents.append(local + name)
        directory.append(
            central.pack(b"PK\x01\x02", 0, 20, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, number * 34)
            + name
        )
    content, listed = b"".join(contents), b"".join(directory)
    record = struct.pack(
        "<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, COUNT, COUNT, len(listed), len(content)
    )
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, len(content) + len(listed), 1)
    many = min(COUNT, 0xFFFF)
    last = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, many, many, len(listed), len(content), 0)
    return write(folder, content + listed + record + locator + last)

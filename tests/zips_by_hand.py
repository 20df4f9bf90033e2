"""Zip archives written field by field, so that each field can lie. For tests and attacks."""

from __future__ import annotations

import os
import pickle
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LOCAL = ("version", "flags", "method", "time", "date", "crc", "packed", "size")
CENTRAL = ("made_by", *LOCAL)
TAIL = ("disk", "internal", "attributes", "header")


@dataclass
class Part:
    """An entry: what is true of it, and what its two headers say instead.

    Attributes:
        name: as bytes, for names that are none.
        content: of the entry.
        deflate: it is deflated.
        raw: the bytes in the file, where they are others than the content gives.
        local: fields of the header before it that lie.
        central: fields of the central directory that lie.
        extra: extra fields of the header before it, and of the central directory.
        behind: bytes after it.
    """

    name: bytes
    content: bytes = b""
    deflate: bool = False
    raw: bytes | None = None
    local: Mapping[str, Any] = field(default_factory=dict)
    central: Mapping[str, Any] = field(default_factory=dict)
    extra: tuple[bytes, bytes] = (b"", b"")
    behind: bytes = b""

    def bytes(self) -> bytes:
        """Return what lies in the file."""
        if self.raw is not None:
            return self.raw
        return deflated(self.content) if self.deflate else self.content

    def fields(self, lies: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of a header."""
        true = {
            "made_by": 0,
            "version": 20,
            "flags": 0x800,
            "method": 8 if self.deflate else 0,
            "time": 0,
            "date": 0x21,
            "crc": zlib.crc32(self.content),
            "packed": len(self.bytes()),
            "size": len(self.content),
            "name": self.name,
            "disk": 0,
            "internal": 0,
            "attributes": 0,
        }
        return {**true, **lies}


def deflated(content: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(content) + packer.flush()


def local_header(part: Part) -> bytes:
    found = part.fields(part.local)
    numbers = [found[name] for name in LOCAL]
    lengths = len(found["name"]), len(part.extra[0])
    return (
        struct.pack("<4s5H3L2H", b"PK\x03\x04", *numbers, *lengths) + found["name"] + part.extra[0]
    )


def central_header(part: Part, header: int) -> bytes:
    found = {"header": header, **part.fields(part.central)}
    numbers = [found[name] for name in CENTRAL]
    lengths = len(found["name"]), len(part.extra[1]), 0
    tail = [found[name] for name in TAIL]
    packed = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", *numbers, *lengths, *tail)
    return packed + found["name"] + part.extra[1]


def end(count: int, size: int, start: int, comment: bytes = b"") -> bytes:
    return (
        struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, size, start, len(comment))
        + comment
    )


def pack(parts: Iterable[Part], *, comment: bytes = b"", count: int | None = None) -> bytes:
    """Return an archive of the parts, in their order."""
    content, directory, number = b"", b"", 0
    for part in parts:
        directory += central_header(part, len(content))
        content += local_header(part) + part.bytes() + part.behind
        number += 1
    number = number if count is None else count
    return content + directory + end(number, len(directory), len(content), comment)


class Payload:
    """Whoever unpickles it makes a folder, in the place of something worse."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


def payload(marker: Path) -> bytes:
    return pickle.dumps({"weight": Payload(marker)}, protocol=2)


def torch_parts(pickled: bytes, **records: bytes) -> list[Part]:
    """Return what a torch file has: its pickle, what describes it, and storages by their keys."""
    found = [Part(b"archive/data.pkl", pickled), Part(b"archive/version", b"3\n")]
    found += [Part(f"archive/data/{key[1:]}".encode(), raw) for key, raw in records.items()]
    return found


def write(folder: Path, content: bytes) -> Path:
    path = folder / "weights.pt"
    path.write_bytes(content)
    return path

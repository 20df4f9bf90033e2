"""A tensor whose data is said to be in a file of the folder above.

A file beside the model is named by its name in the same folder and no path.
"""

from __future__ import annotations

from pathlib import Path


def part(number: int, content: bytes) -> bytes:
    """Return a field of bytes, as Protocol Buffers have it."""
    length, digits = len(content), bytearray()
    while length > 0x7F:
        digits.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([number << 3 | 2, *digits, length]) + content


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    secret = folder.parent / f"{folder.name}-secret.data"
    header = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    secret.write_bytes(len(header).to_bytes(8, "little") + header + b"!")
    place = part(13, part(1, b"location") + part(2, b"../" + secret.name.encode()))
    tensor = b"\x08\x01\x10\x02" + part(8, b"a") + place + b"\x70\x01"
    path = folder / "model.onnx"
    path.write_bytes(b"\x08\x08" + part(2, b"attack") + part(7, part(5, tensor)))
    return path

"""Twenty million numbers of one byte, each of which is eight in memory.

What numbers take up in memory must fit the file's size plus 48 MiB.
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
    count = 20_000_000
    numbers = bytes(count)
    tensor = b"\x08\x80\xda\xc4\x09\x10\x07" + part(8, b"a") + part(7, numbers)
    path = folder / "model.onnx"
    path.write_bytes(b"\x08\x08" + part(2, b"attack") + part(7, part(5, tensor)))
    return path

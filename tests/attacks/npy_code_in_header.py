"""A header with a call in it, for a reader that evaluates the literal of Python that it is.

luthier matches the header, and evaluates nothing.
"""

from __future__ import annotations

from pathlib import Path


def build(folder: Path, marker: Path) -> Path:
    header = (
        f"{{'descr': __import__('os').system('touch {marker}'), 'fortran_order': False}}".encode()
    )
    path = folder / "weights.npy"
    length = len(header).to_bytes(2, "little")
    path.write_bytes(b"\x93NUMPY\x01\x00" + length + header + bytes(8))
    return path

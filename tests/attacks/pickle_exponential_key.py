"""The same tuples as the key of a dict: hashing one takes time exponential in the file.

A key's parts are counted before it is hashed.
"""

from __future__ import annotations

from pathlib import Path

from pickles_by_hand import Raw, pickled, write


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    content = b"})" + b"".join(b"q\x010h\x01h\x01\x86" for _ in range(100))
    return write(folder, pickled(Raw(content + b"Ns")))

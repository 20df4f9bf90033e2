"""One rare letter behind ten million plain ones: it makes all of them four bytes wide.

A text's width is looked at before it is made.
"""

from __future__ import annotations

from pathlib import Path

from pickles_by_hand import Raw, pickled, write


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    text = b"a" * 20_000_000 + "\U0001f600".encode()
    return write(folder, pickled(Raw(b"X" + len(text).to_bytes(4, "little") + text)))

"""Thirty tuples, each with the last one a hundred times: 10 to the power 60 values, if walked.

What is shared is walked once.
"""

from __future__ import annotations

from pathlib import Path

from pickles_by_hand import Raw, pickled, write


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    content = b")" + b"".join(b"q\x010(" + b"h\x01" * 100 + b"t" for _ in range(30))
    return write(folder, pickled(Raw(content)))

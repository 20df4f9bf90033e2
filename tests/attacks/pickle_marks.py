"""Ten million marks, each of which begins a new stack.

Stacks that wait are on the account.
"""

from __future__ import annotations

from pathlib import Path

from pickles_by_hand import Raw, pickled, write


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    return write(folder, pickled(Raw(b"(" * 10_000_000)))

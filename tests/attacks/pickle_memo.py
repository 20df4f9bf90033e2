"""A million objects that are all remembered, and all asked for.

Only what is asked for is kept, and that is on the account.
"""

from __future__ import annotations

from pathlib import Path

from pickles_by_hand import Raw, pickled, write


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    numbers = [number.to_bytes(4, "little") for number in range(500_000)]
    kept = b"".join(b"]r" + number for number in numbers)
    return write(folder, pickled(Raw(kept + b"".join(b"j" + number for number in numbers))))

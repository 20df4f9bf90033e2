"""Two hundred thousand keys, different, all with the same hash: each looks at all before.

Keys that are made to have the same hash are refused.
"""

from __future__ import annotations

from pathlib import Path

from pickles_by_hand import Raw, pickled, write


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    prime = (1 << 61) - 1
    numbers = ((prime * number).to_bytes(12, "little") for number in range(1, 200_000))
    content = b"".join(b"\x8a\x0c" + number + b"N" for number in numbers)
    return write(folder, pickled(Raw(b"}(" + content + b"u")))

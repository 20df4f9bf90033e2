"""Two folders with a data.pkl each: torch takes that of the first record, a scanner the other.

torch writes one folder, and only one is read.
"""

from __future__ import annotations

from pathlib import Path

from zips_by_hand import Part, pack, payload, torch_parts, write


def build(folder: Path, marker: Path) -> Path:
    harmless = [Part(b"model/data.pkl", b"\x80\x02}."), Part(b"model/version", b"3\n")]
    return write(folder, pack([*harmless, *torch_parts(payload(marker))]))

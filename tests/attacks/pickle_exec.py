"""Source code for exec and eval, inside what looks like a state_dict.

Calls are records; Python's own functions are looked up as little as others.
"""

from __future__ import annotations

from pathlib import Path

from pickles_by_hand import Called, pickled, write


def build(folder: Path, marker: Path) -> Path:
    code = f"open({str(marker)!r}, 'w')"
    calls = [Called("builtins", "eval", code), Called("__builtin__", "exec", code)]
    return write(folder, pickled({"state_dict": calls}))

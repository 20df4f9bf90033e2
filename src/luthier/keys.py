"""Keys: every random decision is a function of its position and of nothing else.

A key is derived from the run's seed, a purpose and the position (epoch, sample, step,
rank). No generator is carried along, so nothing has to be saved or restored, and the
number of workers, the depth of prefetching and the moment of a kill cannot matter.
"""

from __future__ import annotations

import hashlib
import json


def key(seed: int, purpose: str, *position: int | str) -> int:
    """Return the 63-bit key of one random decision.

    Args:
        seed: the run's seed.
        purpose: what is decided ("order", "augment", "model", "head", "split").
        position: where, outermost first, such as ``(epoch, sample)``.

    Returns:
        A non-negative integer below 2**63, the same on every machine. (BLAKE2b of the
        arguments as a JSON array, so neighbouring positions give unrelated keys.)
    """
    text = f"[{_json(seed)},{_json(purpose)}"
    for part in position:
        text += f",{part}" if type(part) is int else f",{_json(part)}"
    digest = hashlib.blake2b(f"{text}]".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _json(part: int | str) -> str:
    # A key is made for every sample, and few strings need escapes: json would take most of it.
    if type(part) is int:
        return str(part)
    if type(part) is not str or not (part.isascii() and part.isprintable()):
        return json.dumps(part)
    return json.dumps(part) if '"' in part or "\\" in part else f'"{part}"'

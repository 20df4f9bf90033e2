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
        arguments, so neighbouring positions give unrelated keys.)
    """
    text = json.dumps([seed, purpose, *position], separators=(",", ":"))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1

"""JSON from a file that nobody vouches for: nothing twice, nothing deep, nothing huge. No torch."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

ROOM = 56 << 20  # bytes that a file's description may take up beside as many as the file has
# What values of Python cost at most while they are built, in bytes a character of their text.
_COSTS = {b"{": 240, b"[": 136, b":": 176, b",": 48, b'"': 40}


def _cost(text: bytes) -> int:
    # A single character beyond the basic plane makes all of a string four bytes wide.
    width = 1 if text.isascii() and b"\\u" not in text else 4
    values = sum(cost * text.count(mark) for mark, cost in _COSTS.items())
    return len(text) * (2 + 2 * width) + values


def parse(text: bytes, room: int) -> Any:
    """Parse JSON text.

    Args:
        text: in UTF-8.
        room: bytes of memory that its values may take up.

    Raises:
        ValueError: it is no JSON, holds a key twice, NaN or Infinity (also as a number that is too
            large), is nested too deeply, or would take up more.
    """
    cost = _cost(text)
    if cost > room:
        raise ValueError(
            f"its {len(text):,} bytes of JSON could take up {cost:,} bytes of memory, and {room:,}"
            " are allowed for a file of its size"
        )
    try:
        return json.loads(
            text.decode(),
            object_pairs_hook=_once_each,
            parse_constant=_refuse,
            parse_float=_finite,
        )
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"its JSON is no UTF-8: {error.reason} at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"its JSON is damaged at character {error.pos}: {error.msg}") from None
    except ValueError as error:
        if str(error).startswith("Exceeds the limit"):  # Python's, and its cure is none here
            raise ValueError("its JSON holds a number of thousands of digits") from None
        raise


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = next(name for name, number in counts.items() if number > 1)
        raise ValueError(f"the name {twice[:200]!r} is there twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text[:20])


def _refuse(constant: str) -> Any:
    raise ValueError(f"it holds {constant}, which is no JSON")

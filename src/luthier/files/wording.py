"""Values from a file → text that is safe to print: short, on one line, without control characters.

What a file says is never trusted to be printable: a name could move the cursor, or be a gigabyte.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from luthier.files.entries import Global, Name, Record, RefusedEntry, SparseEntry, TensorEntry

_NUMBERED = re.compile(r"(|.*[^0-9])(0|[1-9][0-9]{0,8})", re.DOTALL)
_DEEPEST = 3
_ITEMS = 6
_BRACKETS: dict[Any, str] = {list: "[]", tuple: "()", object: "{}"}


def plain(text: Any, width: int = 200) -> str:
    """Return a text with what cannot be printed escaped, and cut to ``width`` characters."""
    given: str = text if isinstance(text, str) else shown(text, width)
    cut = given[:width] if len(given) <= width else given[: width - 1] + "…"
    if cut.isprintable():
        return cut
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)[: 2 * width]


def shown(value: Any, width: int = 80) -> str:
    """Return any value of a tree as Python would write it, cut to about ``width`` characters."""
    return _shown(value, width, 0)


def _shown(value: Any, width: int, depth: int) -> str:
    pieces: list[str] = []
    length = 0
    for piece in _pieces(value, depth, width):
        pieces.append(piece)
        length += len(piece)
        if length > width:
            break
    text = "".join(pieces)
    return text if len(text) <= width else text[: width - 1] + "…"


def some(names: Iterable[str], total: int, limit: int = 6) -> str:
    """Join the first names: ``"a, b and 3 more"``."""
    first = list(islice(names, limit))
    left = total - len(first)
    return ", ".join(first) + (f" and {left:,} more" if left else "")


def numbered(name: str) -> tuple[str, int] | None:
    """Take a name apart: ``"layer_12"`` is ``("layer_", 12)``; None where it ends in no number."""
    found = _NUMBERED.fullmatch(name)
    return (found[1], int(found[2])) if found else None


def _pieces(value: Any, depth: int, width: int) -> Iterator[str]:
    if isinstance(value, str | bytes | bytearray):
        yield _quoted(value, width)
    elif isinstance(value, memoryview):
        yield f"{value.nbytes:,} bytes"
    elif isinstance(value, TensorEntry | SparseEntry):
        yield f"tensor {value.spec}"
    elif isinstance(value, RefusedEntry):
        yield f"tensor that {value.why}"
    elif isinstance(value, Name):
        yield plain(f"torch.{value.value}" if value.kind == "dtype" else value.value, width)
    elif isinstance(value, Global):
        yield plain(str(value), width)
    elif isinstance(value, dict | Record | list | tuple | set | frozenset):
        yield from _pieces_of_many(value, depth, width)
    elif isinstance(value, slice | range):  # whose own repr has no limits
        yield type(value).__name__
        yield from _pieces((value.start, value.stop, value.step), depth, width)
    elif isinstance(value, int) and value.bit_length() > 4 * width:
        yield f"a number of {value.bit_length():,} bits"
    else:
        yield plain(repr(value), width) if _is_scalar(value) else type(value).__name__


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | complex)


def _quoted(value: str | bytes | bytearray, width: int) -> str:
    text = plain(repr(value[: width + 1]), 2 * width)
    return text if len(text) <= width else text[: width - 1] + "…"


def _pieces_of_many(value: Any, depth: int, width: int) -> Iterator[str]:
    begin, end = _around(value, width)
    yield begin
    count = len(_listed(value))
    if depth >= _DEEPEST and count:
        yield "…"
        count = 0
    for number, (key, item) in enumerate(_items(value, min(count, _ITEMS), depth)):
        yield ", " if number else ""
        yield "" if key is None else key
        yield from _pieces(item, depth + 1, width)
    if count > _ITEMS:
        yield f", … {count - _ITEMS:,} more"
    elif isinstance(value, tuple) and count == 1:
        yield ","
    yield end


def _around(value: Any, width: int) -> tuple[str, str]:
    if isinstance(value, Record):
        return plain(str(value.made_by), width) + "(", ")"
    brackets = next(both for kind, both in _BRACKETS.items() if isinstance(value, kind))
    return brackets[0], brackets[1]


def _listed(value: Any) -> Any:
    """Return what of a value is listed: of a record its arguments, else what it was given."""
    if not isinstance(value, Record):
        return value
    if value.arguments or value.is_call:
        return value.arguments
    return value.state if isinstance(value.state, dict) else value.items or value.pairs


def _items(value: Any, count: int, depth: int) -> Iterator[tuple[str | None, Any]]:
    listed = _listed(value)
    if not isinstance(listed, dict):
        yield from ((None, item) for item in islice(listed, count))
        return
    for key, item in islice(listed.items(), count):
        if isinstance(value, Record) and isinstance(key, str):
            yield f"{plain(key, 40)}=", item
        else:
            yield f"{_shown(key, 40, depth + 1)}: ", item

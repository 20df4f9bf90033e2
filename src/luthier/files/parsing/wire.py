"""Protocol Buffers' wire format: fields of a message, without a schema and without copies.

After the format's own description (protobuf.dev, "Encoding"). Groups, which nobody writes any
more, are refused.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass

VARINT, FIXED_64, BYTES, FIXED_32 = 0, 1, 2, 5
_LONGEST_VARINT = 10  # bytes


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a message.

    Attributes:
        number: in the schema.
        kind: of the wire format: ``VARINT``, ``FIXED_64``, ``BYTES`` or ``FIXED_32``.
        value: of a number, unsigned; of bytes 0.
        start: where its bytes begin; of a number too.
        end: where they end.
    """

    number: int
    kind: int
    value: int
    start: int
    end: int


def varint(view: memoryview, at: int, end: int) -> tuple[int, int]:
    """Read a number of seven bits a byte; return it, of 64 bits, and where the next byte is.

    Raises:
        ValueError: it does not end before ``end``, or is too long.
    """
    value = shift = 0
    for place in range(at, min(at + _LONGEST_VARINT, end)):
        byte = view[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, place + 1
        shift += 7
    raise ValueError(f"a number at byte {at} does not end")


def signed(value: int) -> int:
    """Return the number of 64 bits with a sign that has these bits."""
    return value - (1 << 64) if value >> 63 else value


def fields(view: memoryview, start: int, end: int, wanted: Container[int]) -> Iterator[Field]:
    """Give the fields of a message that lies between two bytes, those of ``wanted`` numbers.

    Raises:
        ValueError: it is none, in those or in the others.
    """
    at = start
    while at < end:
        begin = at
        tag = view[at]
        if tag < 0x80:  # as nearly all are
            at += 1
        else:
            tag, at = varint(view, at, end)
        number, kind, value = tag >> 3, tag & 7, 0
        if kind == BYTES:
            value, begin = (
                varint(view, at, end) if at == end or view[at] > 0x7F else (view[at], at + 1)
            )
            at = begin + value
        elif kind == VARINT:
            begin = at
            value, at = varint(view, at, end)
        elif kind in (FIXED_64, FIXED_32):
            begin = at
            at += 8 if kind == FIXED_64 else 4
        else:
            raise ValueError(f"a field of the unknown kind {kind} at byte {begin}")
        if at > end or not number:
            raise ValueError(f"the field {number} at byte {begin} ends at byte {at} of {end}")
        if number in wanted:
            if kind in (FIXED_64, FIXED_32):
                value = int.from_bytes(view[begin:at], "little")
            yield Field(number, kind, 0 if kind == BYTES else value, begin, at)


_SMALL = bytes(range(0x80))


def count_varints(view: memoryview, start: int, end: int) -> int:
    """Return how many numbers of seven bits a byte end between two bytes."""
    count = 0
    for at in range(start, end, 1 << 20):
        piece = bytes(view[at : min(at + (1 << 20), end)])
        count += len(piece) - len(piece.translate(None, _SMALL))
    return count

"""Count what is not a finite number in weights, without torch: numpy looks at the bits.

A piece at a time, so that memory stays small whatever the size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from luthier.files.contents.candidates import key_text
from luthier.files.entries import Archive, SparseEntry, TensorEntry, walk

_PIECE = 1 << 18  # elements
# Bits of an element: those of the exponent, all set in NaN and infinity, and those of the fraction,
# of which one is set in NaN only.
_IEEE = {
    "float64": (8, 0x7FF0_0000_0000_0000, 0x000F_FFFF_FFFF_FFFF),
    "float32": (4, 0x7F80_0000, 0x007F_FFFF),
    "float16": (2, 0x7C00, 0x03FF),
    "bfloat16": (2, 0x7F80, 0x007F),
    "float8_e5m2": (1, 0x7C, 0x03),
}
# Dtypes without infinity: the bits to look at, and what they are in NaN.
_NAN_ONLY = {
    "float8_e4m3fn": (0x7F, 0x7F),
    "float8_e4m3fnuz": (0xFF, 0x80),
    "float8_e5m2fnuz": (0xFF, 0x80),
    "float8_e8m0fnu": (0xFF, 0xFF),
}
_COMPLEX = {"complex32": "float16", "complex64": "float32", "complex128": "float64"}


@dataclass(frozen=True)
class NotFinite:
    """How many elements of a tensor are no finite numbers.

    Attributes:
        name: where the tensor is in the file, its keys joined by dots.
        nan: elements that are NaN; of complex numbers, parts that are.
        infinite: elements that are infinite.
    """

    name: str
    nan: int
    infinite: int

    def __str__(self) -> str:
        parts = [f"{self.nan} NaN"] * bool(self.nan)
        parts += [f"{self.infinite} infinite"] * bool(self.infinite)
        return f"{self.name}: {' and '.join(parts)}"


def not_finite(archive: Archive) -> Iterator[NotFinite]:
    """Give the tensors of a file that hold NaN or infinity, in the file's order.

    Raises:
        DamagedError: see ``Blob.view``.
    """
    for place, value in walk(archive.content):
        entry = value.parts["values"] if isinstance(value, SparseEntry) else value
        if isinstance(entry, TensorEntry):
            nan, infinite = count(entry)
            if nan or infinite:
                yield NotFinite(".".join(map(key_text, place.keys())), nan, infinite)


def count(entry: TensorEntry) -> tuple[int, int]:
    """Count an entry's elements that are NaN, and those that are infinite.

    Elements that an expanded view shows several times are counted once.

    Raises:
        DamagedError: see ``Blob.view``.
    """
    name = _COMPLEX.get(entry.spec.dtype, entry.spec.dtype)
    nan = infinite = 0
    for piece in _pieces(entry, name):
        if name in _NAN_ONLY:
            mask, value = _NAN_ONLY[name]
            nan += int(((piece & mask) == value).sum())
            continue
        _, exponent, fraction = _IEEE[name]
        suspects = piece[(piece & exponent) == exponent]
        if suspects.size:
            with_fraction = int(((suspects & fraction) != 0).sum())
            nan, infinite = nan + with_fraction, infinite + suspects.size - with_fraction
    return nan, infinite


def _pieces(entry: TensorEntry, name: str) -> Iterator[Any]:
    """Give an entry's elements as unsigned integers, a piece at a time."""
    if (name not in _IEEE and name not in _NAN_ONLY) or not entry.count:
        return
    import numpy as np  # noqa: PLC0415 - files without such numbers need none

    itemsize = _IEEE[name][0] if name in _IEEE else 1
    kind = np.dtype(f"{'>' if entry.big_endian else '<'}u{itemsize}")
    per_element = 2 if entry.spec.dtype in _COMPLEX else 1
    start = entry.offset * per_element * itemsize
    view = entry.blob.view()
    if entry.strides is None:
        flat = np.frombuffer(view, kind, entry.count * per_element, start)
        for at in range(0, flat.size, _PIECE):
            yield flat[at : at + _PIECE]
        return
    step = per_element * itemsize
    shape = [1 if not s else n for n, s in zip(entry.spec.shape, entry.strides, strict=True)]
    strided = np.ndarray(
        (*shape, per_element), kind, view, start, (*(s * step for s in entry.strides), itemsize)
    )
    yield from np.nditer(strided, ["external_loop", "buffered"], order="K", buffersize=_PIECE)

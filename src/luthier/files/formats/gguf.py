"""GGUF, the files of llama.cpp: tensors are mapped where they lie. No torch, no other package.

Versions 2 and 3 of the format, of either byte order. Blocks of quantised numbers are refused by
the name of their kind. The reader is luthier's own: what is there for Python builds an object for
each element of an array, whatever the file says that there are.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

from luthier.errors import DamagedError, UnsupportedFileError
from luthier.files.dtypes import DTYPES
from luthier.files.entries import Archive, Entry, RefusedEntry, TensorEntry
from luthier.files.limits import Budget
from luthier.files.mapped import MappedFile, Region
from luthier.files.parsing import shapes
from luthier.values import TensorSpec

_DTYPES = {
    0: "float32",
    1: "float16",
    24: "int8",
    25: "int16",
    26: "int32",
    27: "int64",
    28: "float64",
    30: "bfloat16",
}
# Kinds of blocks, by their number: name, elements of a block, bytes of a block.
_BLOCKS = {
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    29: ("IQ1_M", 256, 56),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_TEXT, _ARRAY = 8, 9
_LONGEST_NAME = 64 << 10  # bytes
_SHOWN = 200  # characters of a text
_MOST_FACTS = 200
_COST = 1_500  # bytes of memory that a tensor or a key takes here
_SMALLEST_TENSOR, _SMALLEST_KEY = 24, 13  # bytes in the file


@dataclass
class _Reader:
    """Reads one value after another from the beginning of a file."""

    file: MappedFile
    order: str
    at: int = 4
    view: memoryview = field(init=False)

    def __post_init__(self) -> None:
        self.view = self.file.view(0, self.file.size)

    def take(self, count: int) -> memoryview:
        if count > self.file.size - self.at:
            raise ValueError(
                f"{count} bytes are expected at byte {self.at}, and it has {self.file.size}"
            )
        self.at += count
        return self.view[self.at - count : self.at]

    def scalar(self, code: str) -> Any:
        form = self.order + code
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self, limit: int) -> str:
        length: int = self.scalar("Q")
        if length > limit:
            raise ValueError(f"a name of {length} bytes, at most {limit} expected")
        return bytes(self.take(length)).decode("utf-8", "replace")

    def brief(self) -> str:
        """Read a text of any length; return its beginning."""
        length: int = self.scalar("Q")
        whole = self.take(length)
        start = bytes(whole[:_SHOWN]).decode("utf-8", "replace")
        return start + "…" * (length > _SHOWN)


def read(file: MappedFile) -> Archive:
    """Read the header; the tensors stay on the disk.

    Names and shapes are the file's, with the slowest dimension first, as torch has them.

    Raises:
        UnsupportedFileError: it is of a version that is not known.
        DamagedError: it is truncated or contradicts itself.
    """
    try:
        return _read(file)
    except (ValueError, struct.error) as error:
        raise DamagedError(f"GGUF file {file.path} is truncated or damaged: {error}") from error


def _read(file: MappedFile) -> Archive:
    version = file.read(4, 4)
    order = "<" if version[3] == 0 else ">"
    number = int.from_bytes(version, "little" if order == "<" else "big")
    if number not in (2, 3):
        raise UnsupportedFileError(
            f"{file.path} is of version {number} of GGUF, and luthier reads 2 and 3",
            cure="convert it with the scripts of llama.cpp",
        )
    reader, budget = _Reader(file, order, at=8), Budget.of_size(file.size, str(file.path))
    tensors, keys = reader.scalar("Q"), reader.scalar("Q")
    if tensors * _SMALLEST_TENSOR + keys * _SMALLEST_KEY > file.size:
        raise ValueError(f"{tensors} tensors and {keys} keys in {file.size} bytes")
    budget.spend(_COST * (tensors + min(keys, _MOST_FACTS)))
    facts, alignment = _facts(reader, keys)
    described = [_described(reader) for _ in range(tensors)]
    begin = -(-reader.at // alignment) * alignment
    content: dict[str, Entry] = {}
    for name, shape, kind, offset in described:
        if name in content:
            raise ValueError(f"the tensor {name[:_SHOWN]!r} is there twice")
        if offset % alignment:
            raise ValueError(
                f"the tensor {name[:_SHOWN]!r} is at byte {offset}, no multiple of {alignment}"
            )
        content[name] = _entry(file, name, shape, kind, begin + offset, order == ">")
    _check_places(described, content, file.size - begin)
    return Archive(file.path, "GGUF", content, facts=(("format version", str(number)), *facts))


def _facts(reader: _Reader, count: int) -> tuple[list[tuple[str, str]], int]:
    """Read the keys; return them, arrays in brief, and how tensors are aligned, in bytes."""
    facts: list[tuple[str, str]] = []
    alignment = 32
    for _ in range(count):
        name = reader.text(_LONGEST_NAME)
        value = _value(reader, reader.scalar("I"))
        if name == "general.alignment":
            if type(value) is not int or value < 1 or value & (value - 1) or value > 1 << 20:
                raise ValueError(f"its alignment is {value!r}, expected a power of two")
            alignment = value
        if len(facts) < _MOST_FACTS:
            facts.append((name[:_SHOWN], str(value)))
    return facts, alignment


def _value(reader: _Reader, kind: int) -> Any:
    if kind in _SCALARS:
        return reader.scalar(_SCALARS[kind])
    if kind == _TEXT:
        return reader.brief()
    if kind != _ARRAY:
        raise ValueError(f"a value of the unknown kind {kind}")
    of, count = reader.scalar("I"), reader.scalar("Q")
    if of in _SCALARS:
        reader.take(count * struct.calcsize("<" + _SCALARS[of]))
    elif of == _TEXT:
        for _ in range(count):  # each has its length, so there are no more than an eighth
            reader.take(reader.scalar("Q"))
    else:
        raise ValueError(f"an array of values of kind {of}")  # llama.cpp reads no nested ones
    return f"an array of {count}"


_Described = tuple[str, tuple[int, ...], int, int]  # name, shape, kind, place


def _described(reader: _Reader) -> _Described:
    name, dimensions = reader.text(_LONGEST_NAME), reader.scalar("I")
    if dimensions > shapes.MOST_DIMENSIONS:
        raise ValueError(f"the tensor {name[:_SHOWN]!r} has {dimensions} dimensions")
    lengths = tuple(reader.scalar("Q") for _ in range(dimensions))
    shapes.count(lengths)
    return name, lengths[::-1], reader.scalar("I"), reader.scalar("Q")


def _nbytes(shape: tuple[int, ...], kind: int) -> int | None:
    """Return the bytes of a tensor; None where the kind is not known."""
    count = shapes.count(shape)
    if kind in _DTYPES:
        return count * DTYPES[_DTYPES[kind]].itemsize
    if kind not in _BLOCKS:
        return None
    name, elements, nbytes = _BLOCKS[kind]
    if count % elements:
        raise ValueError(f"{count} elements are no whole blocks of {name}, of {elements}")
    return count // elements * nbytes


def _entry(
    file: MappedFile, name: str, shape: tuple[int, ...], kind: int, start: int, big_endian: bool
) -> Entry:
    nbytes = _nbytes(shape, kind)
    if nbytes is None:
        return RefusedEntry(f"is of GGUF's kind {kind}, which luthier does not know")
    if start + nbytes > file.size:
        raise ValueError(
            f"the tensor {name[:_SHOWN]!r} ends at byte {start + nbytes}, and the file at"
            f" {file.size}"
        )
    if kind in _BLOCKS:
        block = _BLOCKS[kind][0]
        return RefusedEntry(f"is quantised ({block})", TensorSpec(shape, block))
    spec = TensorSpec(shape, _DTYPES[kind])
    turned = big_endian and DTYPES[spec.dtype].itemsize > 1
    return TensorEntry(spec, Region(file, start, nbytes), big_endian=turned)


def _check_places(described: list[_Described], content: dict[str, Entry], size: int) -> None:
    at, before = 0, ""
    for name, shape, kind, offset in sorted(described, key=lambda told: told[3]):
        if offset < at:
            raise ValueError(f"the tensors {before[:_SHOWN]!r} and {name[:_SHOWN]!r} overlap")
        at, before = offset + (_nbytes(shape, kind) or 0), name
    if at > size and content:
        raise ValueError(f"its tensors end at byte {at} of the data, which has {size}")

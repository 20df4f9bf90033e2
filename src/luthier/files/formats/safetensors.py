"""safetensors: eight bytes of length, a JSON header, and the tensors' bytes. No torch here.

The header is held to the format's letter: every tensor has the bytes that its shape and dtype ask
for, one follows the other, and nothing is left over.
"""

from __future__ import annotations

import mmap
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from luthier.errors import DamagedError
from luthier.files.dtypes import BY_SAFETENSORS
from luthier.files.entries import Archive, Entry, RefusedEntry, TensorEntry
from luthier.files.mapped import MappedFile, Region
from luthier.files.parsing import shapes, strict_json
from luthier.values import TensorSpec

METADATA_KEY = "luthier"
LONGEST_HEADER = 100_000_000  # bytes; the format's own limit
# Dtypes of the format that torch has no tensors of, by bits.
_NARROW = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}


@dataclass(frozen=True)
class Described:
    """What a header says of a tensor.

    Attributes:
        code: the format's name of the dtype, such as ``"F32"``.
        shape: of the tensor.
        start: of its bytes in the data.
        end: of its bytes in the data.
    """

    code: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """What stands before the data.

    Attributes:
        begin: where the data begins in the file, in bytes.
        tensors: by name, in the header's order.
        metadata: the strings under ``__metadata__``.
    """

    begin: int
    tensors: Mapping[str, Described]
    metadata: Mapping[str, str]


def read(file: MappedFile) -> Archive:
    """Read the header; the tensors stay on the disk.

    Raises:
        DamagedError: the header contradicts itself or the file's size.
    """
    try:
        length = int.from_bytes(file.read(0, 8), "little") if file.size >= 8 else 0
        header = parse_header(file.read(0, 8 + _checked_length(length, file.size)), file.size)
        about = header.metadata.get(METADATA_KEY, "")
        described = description(about.encode(), file.size) if about else {}
    except ValueError as error:
        raise DamagedError(
            f"safetensors file {file.path} is truncated or damaged: {error}"
        ) from error
    tensors = {name: _entry(file, header.begin, d) for name, d in header.tensors.items()}
    return Archive(
        file.path,
        "safetensors",
        tensors | _tied(tensors, header.metadata),
        metadata=described,
        facts=tuple((k, v) for k, v in header.metadata.items() if k != METADATA_KEY),
    )


def _tied(tensors: Mapping[str, Entry], metadata: Mapping[str, str]) -> dict[str, Entry]:
    """Return tensors under their other names: the format's package notes "other": "stored"."""
    return {
        name: tensors[kept]
        for name, kept in metadata.items()
        if kept in tensors and name not in tensors and name not in ("format", METADATA_KEY)
    }


def _entry(file: MappedFile, begin: int, found: Described) -> Entry:
    if found.code in _NARROW:
        bits = _NARROW[found.code]
        return RefusedEntry(f"has elements of {bits} bits ({found.code}), which torch does not")
    spec = TensorSpec(found.shape, BY_SAFETENSORS[found.code].name)
    return TensorEntry(spec, Region(file, begin + found.start, found.end - found.start))


def description(text: bytes, size: int) -> dict[str, Any]:
    """Read what luthier says of a model in a file of any format that has a place for it.

    Args:
        text: what stands under ``METADATA_KEY``.
        size: of the file.

    Raises:
        ValueError: it is no JSON object; see ``strict_json.parse``.
    """
    found = strict_json.parse(text, size + strict_json.ROOM)
    if not isinstance(found, dict):
        raise ValueError(f"its metadata {METADATA_KEY!r} is no JSON object")
    return found


def _checked_length(length: int, size: int) -> int:
    if size < 8 + length:
        raise ValueError(f"a header of {length} bytes in a file of {size}")
    if length > LONGEST_HEADER:
        raise ValueError(f"a header of {length} bytes, and the format allows {LONGEST_HEADER}")
    return length


def parse_header(content: bytes | bytearray | mmap.mmap, size: int) -> Header:
    """Read and check a header.

    Args:
        content: the file, or at least its beginning up to the data.
        size: of the whole file, in bytes.

    Raises:
        ValueError: it contradicts itself or the size.
    """
    if size < 8:
        raise ValueError(f"it has {size} bytes, fewer than the length of a header takes")
    begin = 8 + _checked_length(int.from_bytes(content[:8], "little"), size)
    header = strict_json.parse(bytes(content[8:begin]), size + strict_json.ROOM)
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("its __metadata__ is no JSON object of strings")
    tensors = {name: _described(name, told) for name, told in header.items()}
    _check_places(tensors, begin, size)
    return Header(begin, tensors, metadata)


def _described(name: str, told: Any) -> Described:
    if not isinstance(told, dict) or told.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name[:200]!r} is described as {_brief(told)}")
    code, shape, place = told["dtype"], told["shape"], told["data_offsets"]
    if not shapes.are_sizes(shape):
        raise ValueError(f"tensor {name[:200]!r} has the shape {_brief(shape)}, which is none")
    if not shapes.are_sizes(place) or len(place) != 2:
        raise ValueError(f"tensor {name[:200]!r} lies at {_brief(place)}, which is no place")
    if not isinstance(code, str) or (code not in BY_SAFETENSORS and code not in _NARROW):
        raise ValueError(f"tensor {name[:200]!r} has the dtype {_brief(code)}, which is none")
    try:
        wanted = _nbytes(code, shape)
    except ValueError as error:
        raise ValueError(f"tensor {name[:200]!r}: {error}") from None
    if place[1] - place[0] != wanted:
        raise ValueError(
            f"tensor {name[:200]!r} is {code} of shape {_brief(shape)}, which takes {wanted} bytes,"
            f" and has {place[1] - place[0]}"
        )
    return Described(code, tuple(shape), place[0], place[1])


def _brief(value: Any) -> str:
    return reprlib.repr(value)[:80]  # which does not go through all of a long list


def _nbytes(code: str, shape: list[int]) -> int:
    count = shapes.count(shape)
    known = BY_SAFETENSORS.get(code)
    bits = count * (8 * known.itemsize if known else _NARROW[code])
    return -(-bits // 8)


def _check_places(tensors: Mapping[str, Described], begin: int, size: int) -> None:
    at = 0
    for name, found in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if found.start != at:
            raise ValueError(
                f"tensor {name[:200]!r} begins at byte {found.start} of the data, expected {at}"
            )
        at = found.end
    if begin + at != size:
        raise ValueError(f"{begin + at} bytes are described, the file has {size}")

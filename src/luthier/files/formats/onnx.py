"""ONNX: the initialisers of a graph, mapped where they lie. No torch, no other package.

Of the schema only what leads to tensors is read: ModelProto.graph, GraphProto.initializer and
TensorProto (onnx.proto, IR version 13), and luthier's own description in metadata_props. The reader
is luthier's own, since the package onnx would copy every tensor into memory, twice. Tensors in a
file beside it are looked for in the same folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

from luthier.errors import DamagedError, UnsupportedFileError
from luthier.files.dtypes import DTYPES
from luthier.files.entries import Archive, Entry, RefusedEntry, TensorEntry
from luthier.files.formats.safetensors import METADATA_KEY, description
from luthier.files.formats.sharded import beside
from luthier.files.limits import ALLOWANCE, Budget
from luthier.files.mapped import Blob, MappedFile, Region
from luthier.files.parsing import shapes, wire
from luthier.files.wording import shown
from luthier.values import TensorSpec

_PRODUCER, _VERSION, _GRAPH, _METADATA = 2, 3, 7, 14  # of ModelProto
_INITIALIZER, _SPARSE_INITIALIZER = 5, 15  # of GraphProto
_OTHER_FIELDS = frozenset({1, 4, 5, 6, 8, 20, 25, 26})  # of ModelProto
_DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    14: "complex64",
    15: "complex128",
    16: "bfloat16",
    17: "float8_e4m3fn",
    18: "float8_e4m3fnuz",
    19: "float8_e5m2",
    20: "float8_e5m2fnuz",
    24: "float8_e8m0fnu",
}
_OTHERS = {8: "holds texts"} | {
    number: f"has elements of less than a byte ({name})"
    for number, name in {
        21: "UINT4", 22: "INT4", 23: "FLOAT4E2M1", 25: "UINT2", 26: "INT2", 27: "FLOAT6E2M3",
        28: "FLOAT6E3M2",
    }.items()
}  # fmt: skip
# Fields of TensorProto.
_DIMS, _DATA_TYPE, _NAME, _EXTERNAL, _LOCATION = 1, 2, 8, 13, 14
_RAW = 9
_FLOATS = (4, 10)  # float_data, double_data: bytes of numbers, as they are in memory
_VARINTS = (5, 7, 11)  # int32_data, int64_data, uint64_data: seven bits a byte
_OF_TENSOR = frozenset({_DIMS, _DATA_TYPE, _NAME, _EXTERNAL, _LOCATION, _RAW, *_FLOATS, *_VARINTS})
_COST = 1_500  # bytes of memory that a tensor takes here
_COST_OF_PIECE = 250  # of one number, where each is a field
_LONGEST_NAME = 64 << 10


@dataclass(frozen=True)
class _Model:
    """A file, its bytes, what its tensors may cost, and the files that it refers to, by name."""

    file: MappedFile
    view: memoryview
    budget: Budget
    others: dict[str, MappedFile] = field(default_factory=dict)


@dataclass
class _Tensor:
    """What a TensorProto says."""

    name: str = ""
    shape: list[int] = field(default_factory=list)
    dtype: int = 0
    is_external: bool = False
    where: dict[str, str] = field(default_factory=dict)
    data: list[wire.Field] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class _Decoded:
    """Numbers of seven bits a byte, or in several pieces: in memory when they are asked for."""

    file: MappedFile
    pieces: tuple[wire.Field, ...]
    itemsize: int
    nbytes: int

    def view(self) -> memoryview:
        """See ``Blob``."""
        found, view, mask = bytearray(), self.file.view(0, self.file.size), 256**self.itemsize - 1
        for piece in self.pieces:
            if piece.number in _VARINTS:
                for value in _varints(view, piece):
                    found += (value & mask).to_bytes(self.itemsize, "little")
            else:
                found += view[piece.start : piece.end]
        return memoryview(found)


def _varints(view: memoryview, piece: wire.Field) -> Iterator[int]:
    if piece.kind == wire.VARINT:
        yield piece.value
        return
    at = piece.start
    while at < piece.end:
        value, at = wire.varint(view, at, piece.end)
        yield value


def read(file: MappedFile) -> Archive:
    """Find the initialisers of the graph; they stay on the disk.

    Raises:
        UnsupportedFileError: it is no ONNX model.
        DamagedError: it is truncated or contradicts itself.
    """
    try:
        return _read(file)
    except ValueError as error:
        raise DamagedError(f"ONNX file {file.path} is truncated or damaged: {error}") from error


def _read(file: MappedFile) -> Archive:
    budget = Budget.of_size(file.size, str(file.path))
    model = _Model(file, file.view(0, file.size), budget)
    view, facts, graph = model.view, {}, None
    about: dict[str, Any] = {}
    for found in wire.fields(view, 0, file.size, range(1 << 32)):
        if found.number == _GRAPH and found.kind == wire.BYTES:
            if graph is not None:  # others would put the two together
                raise ValueError("it has two graphs")
            graph = found
        elif found.number in (_PRODUCER, _VERSION) and found.kind == wire.BYTES:
            facts[found.number] = _text(view, found)
        elif found.number == _METADATA and found.kind == wire.BYTES:
            about |= _metadata(model, found)
        elif found.number not in _OTHER_FIELDS:
            raise ValueError(f"it has a field {found.number}, which no ONNX model has")
    if graph is None:
        raise UnsupportedFileError(f"{file.path} looks like an ONNX model, but has no graph")
    by = " ".join(facts[number] for number in sorted(facts))
    said = (("written by", by),) if by else ()
    return Archive(file.path, "ONNX", _content(model, graph), metadata=about, facts=said)


def _content(model: _Model, graph: wire.Field) -> dict[str, Entry]:
    content: dict[str, Entry] = {}
    initializers = (_INITIALIZER, _SPARSE_INITIALIZER)
    for found in wire.fields(model.view, graph.start, graph.end, initializers):
        if found.kind != wire.BYTES:
            raise ValueError(f"an initialiser at byte {found.start} is a number")
        model.budget.spend(_COST)
        name, entry = _initializer(model, found)
        if name in content:
            raise ValueError(f"the tensor {name[:200]!r} is there twice")
        content[name] = entry
    return content


def _metadata(model: _Model, message: wire.Field) -> dict[str, Any]:
    """Return luthier's description, if that is what an entry of the metadata is."""
    inside = wire.fields(model.view, message.start, message.end, (1, 2))
    parts = {part.number: part for part in inside if part.kind == wire.BYTES}
    if len(parts) < 2 or _text(model.view, parts[1]) != METADATA_KEY:
        return {}
    value = bytes(model.view[parts[2].start : parts[2].end])
    model.budget.spend(len(value))
    return description(value, model.file.size)


def _text(view: memoryview, found: wire.Field) -> str:
    if found.end - found.start > _LONGEST_NAME:
        raise ValueError(f"a name of {found.end - found.start} bytes")
    return bytes(view[found.start : found.end]).decode("utf-8", "replace")


def _initializer(model: _Model, found: wire.Field) -> tuple[str, Entry]:
    view = model.view
    if found.number == _SPARSE_INITIALIZER:
        values = next(wire.fields(view, found.start, found.end, (1,)), None)
        name = _described(model, values).name if values and values.kind == wire.BYTES else ""
        return name, RefusedEntry("is sparse, as ONNX has it")
    told = _described(model, found)
    try:
        return told.name, _entry(model, told)
    except ValueError as error:
        raise ValueError(f"the tensor {told.name[:200]!r}: {error}") from error


def _described(model: _Model, message: wire.Field) -> _Tensor:
    told, view = _Tensor(), model.view
    for found in wire.fields(view, message.start, message.end, _OF_TENSOR):
        if found.number == _DIMS:
            lengths = islice(_varints(view, found), shapes.MOST_DIMENSIONS + 1)
            told.shape += map(wire.signed, lengths)
            if len(told.shape) > shapes.MOST_DIMENSIONS:
                raise ValueError(f"a tensor has more than {shapes.MOST_DIMENSIONS} dimensions")
        elif found.number == _DATA_TYPE:
            told.dtype = found.value
        elif found.number == _NAME and found.kind == wire.BYTES:
            told.name = _text(view, found)
        elif found.number == _LOCATION:
            told.is_external = found.value == 1
        elif found.number == _EXTERNAL and found.kind == wire.BYTES:
            model.budget.spend(_COST_OF_PIECE + found.end - found.start)
            inside = wire.fields(view, found.start, found.end, (1, 2))
            parts = {f.number: _text(view, f) for f in inside}
            told.where[parts.get(1, "")] = parts.get(2, "")
        elif found.number not in (_NAME, _EXTERNAL):
            model.budget.spend(_COST_OF_PIECE)
            told.data.append(found)
    return told


def _entry(model: _Model, told: _Tensor) -> Entry:
    if min(told.shape, default=0) < 0:
        raise ValueError(f"its shape is {told.shape}")
    shape = tuple(told.shape)
    count = shapes.count(shape)
    if told.dtype not in _DTYPES:
        why = _OTHERS.get(
            told.dtype, f"is of ONNX's kind {told.dtype}, which luthier does not know"
        )
        return RefusedEntry(why)
    spec = TensorSpec(shape, _DTYPES[told.dtype])
    nbytes = count * DTYPES[spec.dtype].itemsize
    blob = _external(model, told, nbytes) if told.is_external else _blob(model, told, spec)
    if blob.nbytes != nbytes:
        raise ValueError(f"it is {spec}, which takes {nbytes} bytes, and has {blob.nbytes}")
    return TensorEntry(spec, blob)


def _blob(model: _Model, told: _Tensor, spec: TensorSpec) -> Blob:
    fields = {piece.number for piece in told.data}
    if len(fields) > 1:
        raise ValueError("it has its numbers twice")
    if len(told.data) == 1 and told.data[0].kind == wire.BYTES and not fields & {*_VARINTS}:
        piece = told.data[0]
        return Region(model.file, piece.start, piece.end - piece.start)
    itemsize = DTYPES[spec.dtype].itemsize
    nbytes = sum(map(partial(_decoded_size, model.view, itemsize), told.data))
    if nbytes > model.file.size + ALLOWANCE:
        raise ValueError(f"its numbers would take {nbytes} bytes, far more than the file has")
    return _Decoded(model.file, tuple(told.data), itemsize, nbytes)


def _decoded_size(view: memoryview, itemsize: int, piece: wire.Field) -> int:
    if piece.number not in _VARINTS:
        return piece.end - piece.start
    if piece.kind == wire.VARINT:
        return itemsize
    if piece.end > piece.start and view[piece.end - 1] >= 0x80:
        raise ValueError("its last number does not end")
    return itemsize * wire.count_varints(view, piece.start, piece.end)


def _external(model: _Model, told: _Tensor, nbytes: int) -> Blob:
    name = told.where.get("location", "").removeprefix("./")
    if not name or any(mark in name for mark in "/\\:\0") or name in (".", ".."):
        raise ValueError(f"its data is said to be in {name!r}, which is no file in the same folder")
    try:
        start = int(told.where.get("offset") or 0)
        length = int(told.where.get("length") or nbytes)
    except ValueError:
        raise ValueError(f"its place in {name!r} is {shown(told.where)}") from None
    if name not in model.others:
        model.others[name] = MappedFile(beside(model.file.path, name))
    other = model.others[name]
    if start < 0 or length < 0 or start + length > other.size:
        raise ValueError(
            f"it lies at byte {start} to {start + length} of {name!r}, which has {other.size}"
        )
    return Region(other, start, length)

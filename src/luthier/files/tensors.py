"""Read a weights file into named tensors; write named tensors as safetensors.

A file's kind is told by its content, never by its name.

The entries of an opened file become live tensors that are mapped where they lie, writable and
private: what is written to one stays in memory. Tensors that share memory in the file share it
here. A copy is made where the bytes are the other way round, or where elements do not lie at a
multiple of their size.
"""

from __future__ import annotations

import json
import math
import mmap
import pickle
import warnings
import weakref
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch

from luthier.errors import DamagedError, UnsupportedFileError
from luthier.files import durable, writing
from luthier.files.dtypes import BY_SAFETENSORS, DTYPES
from luthier.files.entries import Entry, Name, Record, RefusedEntry, SparseEntry, TensorEntry
from luthier.files.formats.safetensors import parse_header
from luthier.files.layout import lay_out
from luthier.files.mapped import Blob
from luthier.values import TensorSpec

METADATA_KEY = "luthier"
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_BY_NAME = {name: dtype for dtype, name in _DTYPES.items()}
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")


@dataclass(frozen=True)
class Archive:
    """What a weights file holds.

    Attributes:
        path: the file.
        kind: "safetensors" or "torch".
        tensors: by name, on the CPU.
        metadata: the description that luthier wrote into the file; empty in foreign files.
        sha256: of the file's bytes.
    """

    path: Path
    kind: str
    tensors: Mapping[str, torch.Tensor]
    metadata: Mapping[str, Any]
    sha256: str


def spec(tensor: torch.Tensor) -> TensorSpec:
    """Return a tensor's shape and dtype."""
    return TensorSpec(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def read(path: Path) -> Archive:
    """Read the tensors of a safetensors file or of a state_dict saved by torch.

    No code from the file is run: a torch file is read by torch's restricted unpickler, and
    there is no other way behind it.

    Raises:
        UnsupportedFileError: no such file, or no weights file that can be read as data.
        DamagedError: the file is truncated or its content contradicts itself.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UnsupportedFileError(f"weights file {path} {what}")
    with path.open("rb") as file:
        start = file.read(9)
    if not start:
        raise DamagedError(f"weights file {path} is empty")
    if start[8:9] == b"{":
        tensors, metadata = _read_safetensors(path)
        return Archive(path, "safetensors", tensors, metadata, durable.sha256(path))
    zipped = start[:4] == b"PK\x03\x04"
    if zipped or start[:1] == b"\x80":
        return Archive(path, "torch", _read_torch(path, zipped), {}, durable.sha256(path))
    raise UnsupportedFileError(
        f"{path} is no weights file: it begins with {start[:8]!r}",
        cure="luthier reads safetensors files and state_dicts written by torch.save",
    )


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            described = (file.metadata() or {}).get(METADATA_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = json.loads(described) if described else {}
        if not isinstance(metadata, dict):
            raise ValueError(f"its metadata {METADATA_KEY!r} is no JSON object")
    except (safetensors.SafetensorError, ValueError) as error:
        raise DamagedError(f"safetensors file {path} is damaged: {error}") from error
    return tensors, metadata


def _read_torch(path: Path, zipped: bool) -> dict[str, torch.Tensor]:
    try:
        if zipped:
            _check_zip(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of its own storage classes here
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnsupportedFileError(
            f"{path} holds more than tensors and plain containers, and nothing in it was run:"
            f" {_first_sentence(error)}",
            cure="save the model's state_dict() instead of the model",
        ) from error
    except Exception as error:  # the unpickler raises all kinds on damage
        raise DamagedError(f"{path} is truncated or damaged: {_first_sentence(error)}") from error
    return _state_dict(path, content)


def _check_zip(path: Path) -> None:
    # torch's own reader leaves the CRCs unchecked, and for a member that is marked as a folder it
    # gives whatever the memory holds.
    with zipfile.ZipFile(path) as file:
        damaged = file.testzip()
        folders = [i.filename for i in file.infolist() if i.external_attr & 0x10 or i.is_dir()]
    if damaged is not None or folders:
        raise ValueError(f"{damaged or folders[0]} differs from its CRC-32 or is a folder")


def _state_dict(path: Path, content: Any) -> dict[str, torch.Tensor]:
    candidates = [content]
    if isinstance(content, Mapping):
        candidates += [content[name] for name in _WRAPPERS if name in content]
    for candidate in candidates:
        if isinstance(candidate, Mapping) and candidate:
            tensors = {k: v for k, v in candidate.items() if isinstance(v, torch.Tensor)}
            if len(tensors) == len(candidate):
                return {str(k): v.detach() for k, v in tensors.items()}
    found = (
        sorted(map(str, content))[:8] if isinstance(content, Mapping) else type(content).__name__
    )
    raise UnsupportedFileError(
        f"{path} holds no state_dict: expected tensors by name, at the top or under one of"
        f" {', '.join(_WRAPPERS)}; found {found}"
    )


def _first_sentence(error: Exception) -> str:
    return str(error).strip().split("\n")[0].split(". ")[0] or type(error).__name__


def write(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any] | None = None
) -> None:
    """Write named tensors as a safetensors file, atomically and durably.

    Args:
        path: the file; an old one is replaced in one step.
        tensors: on any device; tensors that share memory are each written whole.
        metadata: plain JSON values, put under the key ``luthier`` of the file's metadata.
    """
    with durable.new_file(path) as temporary:
        write_in_place(temporary, tensors, metadata)


def write_in_place(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any] | None = None
) -> None:
    """Write as ``write`` does, but straight to ``path``: for inside a new directory.

    Raises:
        UnsupportedStateError: a tensor that safetensors cannot hold; it is named.
    """
    sources = {name: writing.source_of(name, tensor) for name, tensor in tensors.items()}
    laid = lay_out({name: source.spec for name, source in sources.items()}, metadata)
    durable.write_chunks(path, writing.safetensors_chunks(laid, sources))


def layout(
    tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any] | None = None
) -> tuple[bytes, dict[str, tuple[int, int]], int]:
    """Lay out a safetensors file.

    Args:
        tensors: only their shapes and dtypes are looked at.
        metadata: see ``write``.

    Returns:
        the bytes before the data; where in the data each tensor begins and ends, in the file's
        order; the data's length.

    Raises:
        UnsupportedStateError: a dtype that safetensors does not know; the tensor is named.
    """
    laid = lay_out({name: spec(tensor) for name, tensor in tensors.items()}, metadata)
    return laid.header, dict(laid.places), laid.size


def parse(content: bytearray | mmap.mmap) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file's bytes, without a copy: they share its memory.

    Raises:
        ValueError: the header contradicts the content.
    """
    header = parse_header(content, len(content))
    found: dict[str, torch.Tensor] = {}
    for name, told in header.tensors.items():
        if told.code not in BY_SAFETENSORS:
            raise ValueError(f"tensor {name!r} is {told.code}, which torch does not have")
        dtype = _dtype(BY_SAFETENSORS[told.code].name)
        if told.start == told.end:
            found[name] = torch.empty(told.shape, dtype=dtype)
            continue
        count, offset = (told.end - told.start) // dtype.itemsize, header.begin + told.start
        flat = torch.frombuffer(content, dtype=dtype, count=count, offset=offset)
        found[name] = flat.view(told.shape)
    return found


def check_structure(path: Path) -> int:
    """Look at a weights file without building a tensor; return how many tensors it names.

    Of a safetensors file the header is compared with the file's size: every tensor has the bytes
    that its shape and dtype ask for, one follows the other, and nothing is left over. Of a torch
    file every member's CRC-32 is compared (it names no tensors without being read: 0); one of
    torch before 1.6 has none, and is read.

    Raises:
        DamagedError: it contradicts itself. UnsupportedFileError: it is no weights file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(9)
            if start[:4] == b"PK\x03\x04":
                _check_zip(path)
                return 0
            if not start:
                raise ValueError("it is empty")
            if start[:1] == b"\x80":  # of torch before 1.6, without a checksum
                return len(_read_torch(path, zipped=False))
            if start[8:9] != b"{":
                raise UnsupportedFileError(f"{path} is no weights file: it begins with {start!r}")
            length = int.from_bytes(start[:8], "little")
            file.seek(0)
            _, entries = _entries(file.read(8 + min(length, size)), size)
            return len(entries)
    except (ValueError, zipfile.BadZipFile) as error:
        raise DamagedError(f"{path} is truncated or damaged: {error}") from error


_Entry = tuple[torch.dtype, list[int], int, int]


def _entries(content: bytes | bytearray | mmap.mmap, size: int) -> tuple[int, dict[str, _Entry]]:
    """Read and check a safetensors header; return where the data begins, and the tensors."""
    begin = 8 + int.from_bytes(content[:8], "little")
    if size < begin:
        raise ValueError(f"a header of {begin - 8} bytes in a file of {size}")
    header = json.loads(content[8:begin], object_pairs_hook=_without_repeats)
    header.pop("__metadata__", None)
    entries: dict[str, _Entry] = {}
    for name, entry in header.items():
        try:
            dtype, shape = _BY_NAME[entry["dtype"]], list(map(int, entry["shape"]))
            start, end = map(int, entry["data_offsets"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"tensor {name!r} is described as {str(entry)[:80]}") from error
        if end - start != math.prod(shape) * dtype.itemsize or min(shape, default=0) < 0:
            raise ValueError(f"tensor {name!r} has another size than its shape and dtype")
        entries[name] = dtype, shape, start, end
    at = 0
    for name, (_, _, start, end) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if start != at:
            raise ValueError(f"tensor {name!r} begins at byte {start} of the data, expected {at}")
        at = end
    if begin + at != size:
        raise ValueError(f"{begin + at} bytes are described, the file has {size}")
    return begin, entries


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


_COMPLEX = {"complex32": 2, "complex64": 4, "complex128": 8}  # bytes of one of the two numbers
_Kept = Callable[[], torch.UntypedStorage | None]
# What tensors still use of each blob, as it is (0), moved (1), or with elements of so many bytes
# turned round: so that two tensors of one blob have one storage.
_in_use: weakref.WeakKeyDictionary[Blob, dict[int, _Kept]] = weakref.WeakKeyDictionary()
_AS_IT_IS, _MOVED = 0, 1
_LAYOUTS = {
    name: vars(torch)[name]
    for name in ("sparse_coo", "sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc")
}
_NAMED = {"dtype": torch.dtype, "layout": torch.layout, "memory_format": torch.memory_format}


def tensor(entry: Entry, name: str = "") -> torch.Tensor:
    """Return the tensor of an entry, on the CPU, without a gradient.

    Args:
        entry: of a file that is still as it was when it was opened.
        name: of the tensor, for errors.

    Raises:
        UnsupportedFileError: it is of a kind that luthier does not give.
        DamagedError: it does not lie within its storage, or its indices within its shape.
    """
    called = f"tensor {name!r}" if name else "a tensor"
    if isinstance(entry, RefusedEntry):
        raise UnsupportedFileError(f"{called} {entry.why}, and luthier gives no such tensors")
    try:
        return _sparse(entry) if isinstance(entry, SparseEntry) else _dense(entry)
    except (RuntimeError, ValueError, TypeError, OverflowError) as error:
        spec, line = entry.spec, str(error).split("\n")[0]
        raise DamagedError(f"{called}, {spec}, contradicts itself: {line}") from error


class Tensors(Mapping[str, torch.Tensor]):
    """Named tensors of a file: each is mapped when it is asked for.

    Args:
        entries: by name.
    """

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self.entries = entries

    def __getitem__(self, name: str) -> torch.Tensor:
        """Return a tensor; see ``tensor`` for what can go wrong."""
        return tensor(self.entries[name], name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


def _dense(entry: TensorEntry) -> torch.Tensor:
    dtype = _dtype(entry.spec.dtype)
    shape, strides = entry.spec.shape, entry.strides
    _check_place(entry)
    if not entry.count:
        found = torch.empty(shape, dtype=dtype)
        return found if strides is None else found.as_strided(shape, strides)
    found = torch.empty(0, dtype=dtype)
    found.set_(_storage(entry), entry.offset, shape, strides or _in_order(shape))
    found = found.conj() if "conj" in entry.flags else found
    return torch._neg_view(found) if "neg" in entry.flags else found


def _dtype(name: str) -> torch.dtype:
    found = vars(torch).get(name) if name in DTYPES else None
    if not isinstance(found, torch.dtype):
        raise UnsupportedFileError(
            f"torch {torch.__version__} has no dtype {name}", cure="update torch"
        )
    return found


def _check_place(entry: TensorEntry) -> None:
    shape, strides = entry.spec.shape, entry.strides
    room = entry.blob.nbytes // DTYPES[entry.spec.dtype].itemsize
    if min(shape, default=0) < 0 or entry.offset < 0 or min(strides or (), default=0) < 0:
        raise ValueError("it has a negative size, stride or offset")
    if strides is not None and len(strides) != len(shape):
        raise ValueError(f"it has {len(shape)} dimensions and {len(strides)} strides")
    if strides is None:
        end = entry.offset + entry.count
    else:
        steps = ((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        end = entry.offset + 1 + sum(steps)
    if entry.count and end > room:
        raise ValueError(f"it ends at element {end} of a storage of {room}")


def _in_order(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for length in reversed(shape):
        strides.append(step)
        step *= length
    return tuple(reversed(strides))


def _storage(entry: TensorEntry) -> torch.UntypedStorage:
    itemsize = DTYPES[entry.spec.dtype].itemsize
    width = _COMPLEX.get(entry.spec.dtype, itemsize)
    if entry.big_endian and width > 1:
        return _kept(entry.blob, width, lambda: _turned(entry.blob, width))
    found = _kept(entry.blob, _AS_IT_IS, lambda: _mapped(entry.blob))
    if found.data_ptr() % itemsize:
        return _kept(entry.blob, _MOVED, found.clone)
    return found


def _kept(blob: Blob, form: int, make: Callable[[], torch.UntypedStorage]) -> torch.UntypedStorage:
    forms = _in_use.setdefault(blob, {})
    found = forms[form]() if form in forms else None
    if found is None:
        found = make()
        forms[form] = weakref.ref(found)
    return found


def _mapped(blob: Blob) -> torch.UntypedStorage:
    return torch.frombuffer(blob.view(), dtype=torch.uint8).untyped_storage()


def _turned(blob: Blob, width: int) -> torch.UntypedStorage:
    whole = blob.nbytes // width * width
    elements = torch.frombuffer(blob.view(), dtype=torch.uint8)[:whole].view(-1, width)
    turned = torch.empty_like(elements)
    for place in range(width):
        turned[:, place] = elements[:, width - 1 - place]
    return turned.untyped_storage()


def _sparse(entry: SparseEntry) -> torch.Tensor:
    parts = {name: _dense(part) for name, part in entry.parts.items()}
    dtype, shape = _dtype(entry.spec.dtype), entry.spec.shape
    if parts["values"].dtype != dtype:
        raise ValueError(f"its values are {parts['values'].dtype}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that compressed layouts are in beta
        if entry.layout == "sparse_coo":
            return torch.sparse_coo_tensor(
                parts["indices"],
                parts["values"],
                shape,
                is_coalesced=entry.is_coalesced or None,
                check_invariants=True,
            )
        return torch.sparse_compressed_tensor(
            parts["compressed"],
            parts["plain"],
            parts["values"],
            shape,
            layout=_LAYOUTS[entry.layout],
            check_invariants=True,
        )


_Holder = dict[Any, Any] | list[Any] | set[Any] | Record


def live(content: Any) -> Any:
    """Return a tree with everything in it as torch has it: tensors, parameters, dtypes, devices.

    What was one object in the tree is one object again. A ``Record`` stays one, with live content;
    so does a ``Name`` or ``Global`` that torch has no plain value for.

    Raises:
        UnsupportedFileError, DamagedError: see ``tensor``.
    """
    return _Living().all_of(content)


class _Living:
    """Builds the live tree; not by recursion, for a file decides how deep it is."""

    def __init__(self) -> None:
        self._made: dict[int, Any] = {}
        self._unfilled: list[tuple[_Holder, Any]] = []

    def all_of(self, content: Any) -> Any:
        found = self._one(content, "")
        while self._unfilled:
            self._fill(*self._unfilled.pop())
        return found

    def _one(self, value: Any, key: Any) -> Any:
        """Return a value's live counterpart; one that can be filled later is still empty."""
        if isinstance(value, tuple | frozenset):
            self._freeze(value)
        elif id(value) not in self._made:
            if isinstance(value, dict | list | set | Record):
                self._made[id(value)] = made = _empty(value)
                self._unfilled.append((value, made))
            elif isinstance(value, TensorEntry | SparseEntry | RefusedEntry):
                self._made[id(value)] = _with_gradient(value, key if isinstance(key, str) else "")
            elif isinstance(value, Name):
                self._made[id(value)] = _named(value)
            else:
                return value
        return self._made[id(value)]

    def _freeze(self, top: tuple[Any, ...] | frozenset[Any]) -> None:
        # Only what can be filled later can close a circle, so these form none among themselves.
        waiting: list[tuple[Any, ...] | frozenset[Any]] = [top]
        while waiting:
            value = waiting[-1]
            if id(value) not in self._made:
                unmade = [
                    item
                    for item in value
                    if isinstance(item, tuple | frozenset) and id(item) not in self._made
                ]
                if unmade:
                    waiting += unmade
                    continue
                items = (self._one(v, "") for v in value)
                made = frozenset(items) if isinstance(value, frozenset) else tuple(items)
                self._made[id(value)] = made
            waiting.pop()

    def _fill(self, value: _Holder, made: Any) -> None:
        if isinstance(value, dict):
            made.update((self._one(k, ""), self._one(v, k)) for k, v in value.items())
        elif isinstance(value, list):
            made.extend(self._one(v, "") for v in value)
        elif isinstance(value, set):
            made.update(self._one(v, "") for v in value)
        else:
            for name in ("arguments", "keywords", "state", "items", "pairs"):
                setattr(made, name, self._one(getattr(value, name), ""))


def _empty(value: _Holder) -> _Holder:
    if isinstance(value, Record):
        return Record(value.made_by, is_call=value.is_call)
    return {} if isinstance(value, dict) else [] if isinstance(value, list) else set()


def _with_gradient(entry: Entry, name: str) -> torch.Tensor:
    found = tensor(entry, name)
    if not isinstance(entry, TensorEntry):
        return found
    has_gradient = entry.requires_grad and (found.is_floating_point() or found.is_complex())
    if entry.is_parameter:
        return torch.nn.Parameter(found, requires_grad=has_gradient)
    return found.requires_grad_(has_gradient)


def _named(name: Name) -> Any:
    if name.kind == "device":
        try:
            return torch.device(name.value)
        except RuntimeError:  # of a kind that this torch does not know
            return name
    found = vars(torch).get(name.value)
    return found if isinstance(found, _NAMED.get(name.kind, ())) else name

"""Entries of an opened file become live tensors; named tensors become a safetensors file.

Live tensors are mapped where they lie, writable and private: what is written to one stays in
memory. Tensors that share memory in the file share it here. A copy is made where the bytes are the
other way round, or where elements do not lie at a multiple of their size.
"""

from __future__ import annotations

import functools
import mmap
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from luthier.errors import DamagedError, UnsupportedFileError
from luthier.files import durable, writing
from luthier.files.contents.candidates import candidates
from luthier.files.dtypes import BY_SAFETENSORS, DTYPES
from luthier.files.entries import (
    Archive,
    Entry,
    Name,
    Record,
    RefusedEntry,
    SparseEntry,
    TensorEntry,
)
from luthier.files.formats.safetensors import parse_header
from luthier.files.layout import lay_out
from luthier.files.mapped import Blob
from luthier.files.pickles.rebuild import Storage
from luthier.values import TensorSpec

METADATA_KEY = "luthier"


def spec(tensor: torch.Tensor) -> TensorSpec:
    """Return a tensor's shape and dtype."""
    return TensorSpec(tuple(tensor.shape), _name_of(tensor.dtype))


@functools.cache
def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


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


def weights(archive: Archive) -> Tensors:
    """Return the named tensors of a file: those of its best candidate.

    Raises:
        UnsupportedFileError: it holds no named tensors.
        DamagedError: see ``candidates``.
    """
    found = candidates(archive)
    if not found:
        raise UnsupportedFileError(f"{archive.path} ({archive.kind}) holds no named tensors")
    return Tensors(found[0].entries)


@dataclass(frozen=True, eq=False)
class _Memory:
    """The storage of live tensors."""

    storage: torch.UntypedStorage

    @property
    def nbytes(self) -> int:
        """See ``Blob``."""
        return self.storage.nbytes()

    def view(self) -> memoryview:
        """See ``Blob``."""
        flat = torch.empty(0, dtype=torch.uint8).set_(self.storage)
        return memoryview(flat.numpy())  # type: ignore[arg-type]


def archive_of(tensors: Mapping[str, torch.Tensor], path: Path, kind: str) -> Archive:
    """Return live tensors as if they had been opened: in place of a file.

    Args:
        tensors: dense ones, by name; those on the CPU are not copied, and what shares memory
            shares it.
        path: what to call the whole in reports.
        kind: where they are from, such as "timm".
    """
    blobs: dict[int, Blob] = {}
    return Archive(path, kind, {n: _entry_of(t, blobs) for n, t in tensors.items()}, _sha256="")


def _entry_of(live_one: torch.Tensor, blobs: dict[int, Blob]) -> TensorEntry:
    found = live_one.detach().cpu()
    storage = found.untyped_storage()
    flags = {"conj": found.is_conj(), "neg": found.is_neg()}
    return TensorEntry(
        spec(found),
        blobs.setdefault(storage._cdata, _Memory(storage)),
        offset=int(found.storage_offset()),
        strides=found.stride(),
        device=str(live_one.device),
        is_parameter=isinstance(live_one, torch.nn.Parameter),
        requires_grad=live_one.requires_grad,
        flags=frozenset(flag for flag, is_set in flags.items() if is_set),
    )


def _dense(entry: TensorEntry) -> torch.Tensor:
    dtype = _dtype(entry.spec.dtype)
    shape, strides, count = entry.spec.shape, entry.strides, entry.count
    _check_place(entry, count)
    if not count:
        found = torch.empty(shape, dtype=dtype)
        return found if strides is None else found.as_strided(shape, strides)
    found = torch.empty(0, dtype=dtype)
    found.set_(_storage(entry), entry.offset, shape, strides or ())  # () is in order
    if entry.flags:
        found = found.conj() if "conj" in entry.flags else found
        found = torch._neg_view(found) if "neg" in entry.flags else found
    return found


def _dtype(name: str) -> torch.dtype:
    found = vars(torch).get(name) if name in DTYPES else None
    if not isinstance(found, torch.dtype):
        raise UnsupportedFileError(
            f"torch {torch.__version__} has no dtype {name}", cure="update torch"
        )
    if name == "complex32":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says once that it can do little with it
            torch.empty(0, dtype=found)
    return found


def _check_place(entry: TensorEntry, count: int) -> None:
    shape, strides = entry.spec.shape, entry.strides
    room = entry.blob.nbytes // DTYPES[entry.spec.dtype].itemsize
    if entry.offset < 0 or (shape and min(shape) < 0) or (strides and min(strides) < 0):
        raise ValueError("it has a negative size, stride or offset")
    if strides is None:
        end = entry.offset + count
    elif len(strides) != len(shape):
        raise ValueError(f"it has {len(shape)} dimensions and {len(strides)} strides")
    else:
        steps = ((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        end = entry.offset + 1 + sum(steps)
    if count and end > room:
        raise ValueError(f"it ends at element {end} of a storage of {room}")


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

    What was one object in the tree is one object again. A storage on its own is a tensor in one
    dimension. A ``Record`` stays one, with live content;
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
            else:
                made = _single(value, key if isinstance(key, str) else "")
                if made is value:
                    return value
                self._made[id(value)] = made
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


def _single(value: Any, name: str) -> Any:
    """Return the counterpart of a value that holds no others."""
    if isinstance(value, TensorEntry | SparseEntry | RefusedEntry):
        return _with_gradient(value, name)
    if isinstance(value, Storage):
        return tensor(value.tensor(), name)
    if isinstance(value, memoryview):
        return bytes(value)
    return _named(value) if isinstance(value, Name) else value


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

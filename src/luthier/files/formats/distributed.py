"""Folders that ``torch.distributed.checkpoint`` writes: tensors in pieces, over several files.

``.metadata`` is a pickle of plain descriptions: the shape of each tensor, the pieces that it was
cut into, and for each piece a file, a place in it and a length, where a whole torch file lies that
holds the piece. No torch here; numpy only where pieces are put together.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise, product
from pathlib import Path
from typing import Any

from luthier.errors import DamagedError, UnsupportedFileError
from luthier.files.dtypes import DTYPES
from luthier.files.entries import DEEPEST, Archive, Global, Name, Record, RefusedEntry, TensorEntry
from luthier.files.limits import Broken, Budget
from luthier.files.mapped import MappedFile
from luthier.files.parsing import shapes
from luthier.files.parsing.zips import Content
from luthier.files.pickles.inside import open_inside
from luthier.files.pickles.reader import read_pickle
from luthier.files.wording import plain, shown
from luthier.values import TensorSpec

_MOST_DIMENSIONS = 8  # of a tensor in several pieces: each has so many corners as two to this power
_MOST_OPEN = 64  # files at once
_COST = 600  # bytes of memory that an item or a piece takes


def read(folder: Path) -> Archive:
    """Read ``.metadata`` and what is no tensor; the tensors stay on the disk.

    The content is the state that was saved, nested as it was.

    Raises:
        DamagedError: it contradicts itself, a file is missing or another, or it is over a limit.
        UnsupportedFileError: its files are compressed or transformed in another way.
    """
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    budget = Budget.of_size(size, str(folder))
    file = MappedFile(folder / ".metadata")
    found = read_pickle(file.view(0, file.size), budget)
    try:
        return _Checkpoint(folder, budget, found.value, found.globals).archive()
    except Broken as error:
        raise _damaged(folder, str(error)) from error


@dataclass(frozen=True)
class _Piece:
    """A tensor, or a part of one, or another object, and where it is.

    Files are opened when they are needed: there can be more than a process may have open.
    """

    path: Path
    open_file: Callable[[Path], MappedFile]
    start: int
    length: int

    def archive(self) -> Archive:
        """Open the torch file that holds it.

        Raises:
            DamagedError: it cannot be read.
        """
        return open_inside(self.view(), Budget.of_size(self.length, str(self.path)))

    def view(self) -> memoryview:
        """Return its bytes."""
        return self.open_file(self.path).view(self.start, self.length)

    def tensor(self, archive: Archive, spec: TensorSpec) -> TensorEntry:
        """Return the tensor in it.

        Raises:
            DamagedError: it is none, or another than ``spec``.
        """
        entry = archive.content
        if not isinstance(entry, TensorEntry) or entry.spec != spec or entry.flags:
            raise DamagedError(
                f"{self.path} is damaged: at byte {self.start} lies {shown(entry)}, expected"
                f" a tensor {spec}",
                cure="copy the whole folder again",
            )
        return entry


@dataclass(eq=False)
class _Assembled:
    """The bytes of a tensor, put together from its pieces while somebody holds them."""

    spec: TensorSpec
    pieces: Mapping[tuple[int, ...], tuple[tuple[int, ...], _Piece]]
    nbytes: int
    _kept: Callable[[], Content | None] = field(default=lambda: None, repr=False)

    def view(self) -> memoryview:
        """See ``Blob``."""
        kept = self._kept()
        if kept is not None:
            return memoryview(kept)
        entries = [
            (offsets, piece.tensor(piece.archive(), TensorSpec(sizes, self.spec.dtype)))
            for offsets, (sizes, piece) in self.pieces.items()
        ]
        if len(entries) == 1 and _is_plain(entries[0][1]):
            entry = entries[0][1]
            start = entry.offset * DTYPES[self.spec.dtype].itemsize
            return entry.blob.view()[start : start + self.nbytes]
        content = Content(self.nbytes)
        _fill(content, self.spec, entries)
        self._kept = weakref.ref(content)
        return memoryview(content)

    def check(self) -> None:
        """Compare the checksums of all pieces."""
        for sizes, piece in self.pieces.values():
            archive = piece.archive()
            piece.tensor(archive, TensorSpec(sizes, self.spec.dtype))
            archive.check()


def _is_plain(entry: TensorEntry) -> bool:
    return entry.strides is None and not entry.big_endian


def _fill(
    content: Content, spec: TensorSpec, entries: list[tuple[tuple[int, ...], TensorEntry]]
) -> None:
    import numpy as np  # noqa: PLC0415 - opening and inspecting do without it

    itemsize = DTYPES[spec.dtype].itemsize
    width = itemsize // 2 if spec.dtype.startswith("complex") else itemsize
    whole = np.ndarray(spec.shape, f"V{itemsize}", content)
    for offsets, entry in entries:
        shape, start = entry.spec.shape, entry.offset * itemsize
        strides = None
        if entry.strides is not None:
            strides = tuple(stride * itemsize for stride in entry.strides)
        part = np.ndarray(shape, f"V{itemsize}", entry.blob.view(), start, strides)
        if entry.big_endian:
            turned = np.frombuffer(part.tobytes(), np.uint8).reshape(-1, width)[:, ::-1]
            part = np.frombuffer(turned.tobytes(), f"V{itemsize}").reshape(shape)
        where = zip(offsets, shape, strict=True)
        whole[tuple(slice(offset, offset + length) for offset, length in where)] = part


class _Checkpoint:
    """What a folder's ``.metadata`` describes.

    Args:
        folder: of the checkpoint.
        budget: what everything in it may cost.
        top: the pickle's content.
        used: the classes and functions that it refers to.
    """

    def __init__(
        self, folder: Path, budget: Budget, top: Any, used: tuple[tuple[Global, bool], ...]
    ) -> None:
        self._folder = folder
        self._budget = budget
        self._used = dict.fromkeys(used)
        self._files: dict[str, int] = {}
        self._open_file = lru_cache(_MOST_OPEN)(MappedFile)
        self._state = _fields(top, "Metadata")
        self._pieces = dict(self._located())
        self._tensors: list[_Assembled] = []

    def archive(self) -> Archive:
        """Return the state that it holds."""
        described = _dict(self._state.get("state_dict_metadata"))
        flat = {str(name): self._item(str(name), told) for name, told in described.items()}
        facts = [("files", str(len(self._files)))]
        version = self._state.get("version")
        if isinstance(version, str):
            facts.append(("format version", plain(version, 40)))
        return Archive(
            self._folder,
            "torch.distributed.checkpoint",
            self._nested(flat),
            facts=tuple(facts),
            globals=tuple(self._used),
            check=self._check,
        )

    def _check(self) -> None:
        for tensor in self._tensors:
            tensor.check()
        for (_, offsets), piece in self._pieces.items():
            if offsets is None:
                piece.archive().check()

    def _located(self) -> Iterator[tuple[tuple[str, tuple[int, ...] | None], _Piece]]:
        """Give the place of each piece, by its tensor's name and its offsets in the tensor."""
        for index, place in _dict(self._state.get("storage_data")).items():
            self._budget.spend(_COST)
            key, told = _fields(index, "MetadataIndex"), _fields(place, "_StorageInfo")
            name, offsets = key.get("fqn"), key.get("offset")
            if not isinstance(name, str):
                raise Broken(f"a piece is called {shown(name)}")
            yield (name, None if offsets is None else _sizes(offsets)), self._piece(name, told)

    def _piece(self, name: str, told: Mapping[Any, Any]) -> _Piece:
        start, length = _sizes([told.get("offset"), told.get("length")])
        if told.get("transform_descriptors"):
            raise UnsupportedFileError(
                f"distributed checkpoint {self._folder}: {plain(name)!r} is transformed with"
                f" {shown(told['transform_descriptors'])}, which luthier cannot undo"
            )
        file = told.get("relative_path")
        size = self._size(file)
        if start + length > size:
            raise Broken(
                f"{plain(name)!r} ends at byte {start + length} of {file}, which has {size}"
            )
        return _Piece(self._folder / str(file), self._open_file, start, length)

    def _size(self, name: Any) -> int:
        if not isinstance(name, str) or Path(name).name != name or "\\" in name or "\0" in name:
            raise Broken(f"it names a file {shown(name)}, which is not one of its folder")
        if name not in self._files:
            path = self._folder / name
            if not path.is_file():
                raise Broken(f"its file {plain(name)!r} is missing")
            if path.resolve().parent != self._folder.resolve():
                raise Broken(f"its file {plain(name)!r} is a link out of the folder")
            self._files[name] = path.stat().st_size
        return self._files[name]

    def _item(self, name: str, told: Any) -> Any:
        if not isinstance(told, Record) or told.made_by.name != "TensorStorageMetadata":
            return self._object(name)
        spec = _spec(name, _fields(told, "TensorStorageMetadata"))
        if isinstance(spec, RefusedEntry):
            return spec
        itemsize = DTYPES[spec.dtype].itemsize
        pieces = dict(self._pieces_of(name, _fields(told, "TensorStorageMetadata"), spec))
        nbytes = shapes.count(spec.shape) * itemsize
        if nbytes > self._budget.limit:
            return RefusedEntry(f"has {nbytes:,} bytes, far more than the folder", spec)
        self._tensors.append(_Assembled(spec, pieces, nbytes))
        return TensorEntry(spec, self._tensors[-1])

    def _pieces_of(
        self, name: str, told: Mapping[Any, Any], spec: TensorSpec
    ) -> Iterator[tuple[tuple[int, ...], tuple[tuple[int, ...], _Piece]]]:
        chunks = told.get("chunks")
        found = {}
        for chunk in chunks if isinstance(chunks, list) else ():
            self._budget.spend(_COST)
            place = _fields(chunk, "ChunkStorageMetadata")
            sizes = _sizes(place.get("sizes"))
            if 0 not in sizes:
                found[_sizes(place.get("offsets"))] = sizes
        _check_cover(name, spec.shape, found)
        for offsets, sizes in found.items():
            piece = self._pieces.get((name, offsets))
            if piece is None:
                raise Broken(f"it does not say where the piece of {plain(name)!r} at {offsets} is")
            yield offsets, (sizes, piece)

    def _object(self, name: str) -> Any:
        piece = self._pieces.get((name, None))
        if piece is None:
            raise Broken(f"it does not say where {plain(name)!r} is")
        found = open_inside(piece.view(), self._budget)
        self._used.update(dict.fromkeys(found.globals))
        return found.content

    def _nested(self, flat: dict[str, Any]) -> Any:
        """Put the items where they were, before their places were written as names."""
        paths = self._state.get("planner_data")
        if not isinstance(paths, dict) or paths.keys() != flat.keys():
            return flat
        top: dict[Any, Any] = {}
        for name, path in paths.items():
            if not isinstance(path, tuple) or not 0 < len(path) <= DEEPEST:
                raise Broken(f"the place of {plain(name)!r} in its state is {shown(path)}")
            self._budget.spend(_COST * len(path))
            holder: Any = top
            for key, following in pairwise(path):
                holder = self._at(holder, key, [] if type(following) is int else {}, len(flat))
            if self._at(holder, path[-1], flat[name], len(flat)) is not flat[name]:
                raise Broken(f"at the place of {plain(name)!r} in its state is something else")
        return top

    def _at(self, holder: Any, key: Any, value: Any, most: int) -> Any:
        """Return what is in a holder at a key, having put ``value`` there if nothing was."""
        if isinstance(holder, dict) and isinstance(key, str | int):
            return holder.setdefault(key, value)
        if not isinstance(holder, list) or type(key) is not int or not 0 <= key < most:
            raise Broken(f"a place in its state is {shown(key)} of {shown(holder)}")
        missing = max(0, key + 1 - len(holder))
        self._budget.spend(8 * missing)
        holder.extend([None] * missing)
        if holder[key] is None:
            holder[key] = value
        return holder[key]


def _spec(name: str, told: Mapping[Any, Any]) -> TensorSpec | RefusedEntry:
    size, properties = _sizes(told.get("size")), told.get("properties")
    state = properties.state if isinstance(properties, Record) else None
    dtype = state[0] if isinstance(state, tuple) and state else None
    if not isinstance(dtype, Name) or dtype.kind != "dtype":
        raise Broken(f"tensor {plain(name)!r} has the dtype {shown(dtype)}")
    try:
        shapes.count(size)
    except ValueError as error:
        raise Broken(f"tensor {plain(name)!r} has {error}") from error
    spec = TensorSpec(size, dtype.value)
    return spec if dtype.value in DTYPES else RefusedEntry(f"has the dtype {dtype.value}", spec)


def _sizes(value: Any) -> tuple[int, ...]:
    if not shapes.are_sizes(value):
        raise Broken(f"it holds {shown(value)}, expected sizes")
    return tuple(value)


def _check_cover(
    name: str, shape: tuple[int, ...], pieces: Mapping[tuple[int, ...], tuple[int, ...]]
) -> None:
    """Raise unless every element is in exactly one piece.

    The pieces have as many elements as the whole, and of their corners all cancel out in pairs but
    those of the whole. So each element is in an odd number of pieces, and that is then 1.
    """
    whole = {(0,) * len(shape): shape} if 0 not in shape else {}
    if pieces == whole:
        return
    if len(shape) > _MOST_DIMENSIONS or not all(len(p) == len(shape) for p in _flat(pieces)):
        raise Broken(f"the pieces of {plain(name)!r} have other dimensions than {len(shape)}")
    inside = all(
        offset + length <= most
        for offsets, sizes in pieces.items()
        for offset, length, most in zip(offsets, sizes, shape, strict=True)
    )
    count = sum(shapes.count(sizes) for sizes in pieces.values()) if inside else -1
    if count != shapes.count(shape) or _corners(pieces) != _corners(whole):
        raise Broken(f"the pieces of {plain(name)!r} do not make up its shape {shape}")


def _flat(pieces: Mapping[tuple[int, ...], tuple[int, ...]]) -> Iterator[tuple[int, ...]]:
    yield from pieces.keys()
    yield from pieces.values()


def _corners(pieces: Mapping[tuple[int, ...], tuple[int, ...]]) -> set[tuple[int, ...]]:
    found: set[tuple[int, ...]] = set()
    for offsets, sizes in pieces.items():
        ends = ((o, o + length) for o, length in zip(offsets, sizes, strict=True))
        found ^= set(product(*ends))
    return found


def _fields(value: Any, name: str) -> dict[Any, Any]:
    """Return the attributes of an object that was pickled."""
    if not isinstance(value, Record) or value.made_by.name != name:
        raise Broken(f"it holds {shown(value)}, expected a {name}")
    return _dict(value.state)


def _dict(value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise Broken(f"it holds {shown(value)}, expected a dict")
    return value


def _damaged(folder: Path, what: str) -> DamagedError:
    return DamagedError(
        f"distributed checkpoint {folder} is damaged: {what}", cure="copy the whole folder again"
    )

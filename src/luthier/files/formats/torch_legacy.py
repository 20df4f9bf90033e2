"""What ``torch.save`` wrote before torch 1.6, and plain pickles. No torch here.

Five pickles follow each other: a magic number, the protocol, facts of the machine, the object, and
the keys of its storages. Behind them lie the storages in the order of these keys, each with its
number of elements (8 bytes). All numbers are little-endian, whatever machine wrote them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from luthier.errors import DamagedError, UnsupportedFileError
from luthier.files.entries import Archive, Global
from luthier.files.limits import Broken, Budget
from luthier.files.mapped import MappedFile
from luthier.files.parsing.zips import Content
from luthier.files.pickles.inside import budget_of
from luthier.files.pickles.reader import Unpickled, read_pickle
from luthier.files.pickles.rebuild import Storage, StorageId, storage_id

MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_ALIGNED = 16  # bytes: the largest element
_CHUNK = 2**20
_COST = 400  # bytes of memory that a storage takes here


def read(file: MappedFile) -> Archive:
    """Read the pickles; the tensors stay on the disk.

    A file whose first pickle is not torch's magic number is a plain pickle: kind "pickle".

    Raises:
        DamagedError: it is truncated, contradicts itself, or is over a limit.
        UnsupportedFileError: it is older than torch 0.4, or of a version that nobody knows.
    """
    if file.read(0, min(file.size, 262))[257:] == b"ustar":
        raise UnsupportedFileError(
            f"{file.path} was saved by torch before 0.4, as a tar archive, which luthier does not"
            " read",
            cure="open it with a torch of that time, and save its state_dict again",
        )
    budget = budget_of(file)
    content = file.view(0, file.size)
    first = read_pickle(content, budget)
    if first.value == MAGIC:
        return _torch(file, content, budget, first.end)
    if first.end != file.size:
        raise _damaged(file, f"{file.size - first.end} bytes follow the pickle")
    return Archive(file.path, "pickle", first.value, globals=first.globals)


class _Later:
    """A storage whose place in the file is known only after the pickles were read."""

    def __init__(self, file: MappedFile, asked: StorageId, last: list[Content]) -> None:
        self.asked = asked
        self.nbytes = asked.nbytes
        self.start: int | None = None
        self._file = file
        self._last = last
        self._content: Callable[[], Content | None] = lambda: None

    def view(self) -> memoryview:
        """See ``Blob``. Storages seldom lie at a place where they could be used: they are read.

        The last one of a file is kept, or it would be read for each of the tensors that share it.
        """
        if self.start is None:
            raise _damaged(self._file, f"it does not hold the storage {self.asked.key!r}")
        if self.start % _ALIGNED == 0:
            return self._file.view(self.start, self.nbytes)
        content = self._content()
        if content is None:
            self._last.clear()
            content = Content(self.nbytes)
            for at in range(0, self.nbytes, _CHUNK):
                end = min(at + _CHUNK, self.nbytes)
                content[at:end] = self._file.read(self.start + at, end - at)
            self._content = weakref.ref(content)
            self._last.append(content)
        return memoryview(content)


class _Part:
    """A part of a storage, as old files have them."""

    def __init__(self, whole: _Later, start: int, nbytes: int) -> None:
        self.nbytes = nbytes
        self._whole = whole
        self._start = start

    def view(self) -> memoryview:
        """See ``Blob``."""
        return self._whole.view()[self._start : self._start + self.nbytes]


class _Storages:
    """The storages that a pickle refers to, by their keys."""

    def __init__(self, file: MappedFile, budget: Budget) -> None:
        self._file = file
        self._budget = budget
        self._found: dict[str, _Later] = {}
        self._last: list[Content] = []
        self._parts: dict[str, tuple[_Part, tuple[str, int, int]]] = {}

    def __call__(self, value: Any) -> Storage | Global:
        """Return the storage of a persistent id, or the class of a module, kept with its source."""
        match value:
            case ("module", Global() as made_by, _, _):
                return made_by
        asked = storage_id(value)
        whole = self._whole(asked)
        if asked.part is None:
            return Storage(whole, asked.dtype, asked.device)
        return Storage(self._part(whole, asked, asked.part), asked.dtype, asked.device)

    def _whole(self, asked: StorageId) -> _Later:
        if asked.key not in self._found:
            self._budget.spend(_COST)
            self._found[asked.key] = _Later(self._file, asked, self._last)
        whole = self._found[asked.key]
        if (whole.asked.count, whole.asked.dtype) != (asked.count, asked.dtype):
            raise Broken(f"it says two things of the storage {asked.key!r}")
        return whole

    def _part(self, whole: _Later, asked: StorageId, part: tuple[str, int, int]) -> _Part:
        key, first, count = part
        if first + count > asked.count:
            raise Broken(f"a part of the storage {asked.key!r} reaches beyond it")
        if key not in self._parts:
            self._budget.spend(_COST)
            size = asked.itemsize
            self._parts[key] = _Part(whole, first * size, count * size), (asked.key, first, count)
        found, place = self._parts[key]
        if place != (asked.key, first, count):
            raise Broken(f"it says two things of the storage {key!r}")
        return found

    def place(self, keys: Any, at: int) -> None:
        """Find the storages behind the pickles.

        Args:
            keys: in the order of the file.
            at: where the first begins.

        Raises:
            DamagedError: they are not there, or not all, or more.
        """
        file = self._file
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise _damaged(file, "it has no list of its storages")
        if len(keys) != len(self._found) or set(keys) != self._found.keys():
            raise _damaged(
                file,
                f"the {len(keys)} storages that it lists are not the {len(self._found)} that it"
                " refers to",
            )
        for key in keys:
            storage = self._found[key]
            count = int.from_bytes(file.read(at, 8), "little")
            if count != storage.asked.count:
                raise _damaged(
                    file,
                    f"storage {key!r} has {count} elements, expected {storage.asked.count}",
                )
            storage.start = at + 8
            at += 8 + storage.nbytes
        if at != file.size:
            raise _damaged(file, f"its storages end at byte {at} of {file.size}")


def _torch(file: MappedFile, content: memoryview, budget: Budget, start: int) -> Archive:
    protocol = read_pickle(content, budget, start=start)
    if protocol.value != _PROTOCOL:
        raise UnsupportedFileError(
            f"{file.path} is in torch's old format, of an unknown version", cure="update luthier"
        )
    machine = read_pickle(content, budget, start=protocol.end)
    storages = _Storages(file, budget)
    found = read_pickle(content, budget, storages, start=machine.end)
    keys = read_pickle(content, budget, start=found.end)
    storages.place(keys.value, keys.end)
    return Archive(
        file.path,
        "torch (before 1.6)",
        found.value,
        globals=_together(protocol, machine, found, keys),
    )


def _together(*pickles: Unpickled) -> tuple[tuple[Global, bool], ...]:
    return tuple(dict.fromkeys(found for pickle in pickles for found in pickle.globals))


def _damaged(file: MappedFile, what: str) -> DamagedError:
    return DamagedError(
        f"torch file {file.path} is truncated or damaged: {what}", cure="fetch or copy it again"
    )

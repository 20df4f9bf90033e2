"""HDF5, as Keras and others write weights, over the package h5py (the extra ``hdf5``). No torch.

Links out of the file, data in other files and filters from plug-ins are refused. What lies in the
file as it is, is mapped there; chunks are read when they are asked for.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.errors import DamagedError, missing_extra
from luthier.files.dtypes import BY_NUMPY
from luthier.files.entries import Archive, Entry, RefusedEntry, TensorEntry
from luthier.files.limits import ALLOWANCE, Budget
from luthier.files.mapped import Blob, MappedFile, Region
from luthier.files.parsing import shapes
from luthier.files.wording import plain
from luthier.values import TensorSpec

_COST = 4_000  # bytes of memory that an object takes here and in the library
_BUILT_IN = frozenset({1, 2, 3, 4, 5, 6, 32000})  # filters: deflate to scale-offset, and LZF
_FACTS = ("keras_version", "backend")
_SHOWN = 200  # characters
# What h5py makes of a damaged file.
_H5PY_RAISES = (OSError, RuntimeError, ValueError, KeyError, TypeError)


def read(file: MappedFile) -> Archive:
    """Read the tree of groups; data sets are named by their path in it.

    Raises:
        MissingExtraError: h5py is not installed.
        DamagedError: it is truncated or contradicts itself.
    """
    try:
        h5py = importlib.import_module("h5py")
    except ModuleNotFoundError:
        raise missing_extra("h5py", "hdf5", f"the HDF5 file {file.path}") from None
    try:
        opened = h5py.File(_Bytes(file), "r")
        budget = Budget.of_size(file.size, str(file.path))
        found = {name: _entry(file, h5py, item) for name, item in _walk(h5py, opened, budget)}
        facts = tuple((name, _text(opened.attrs[name])) for name in _FACTS if name in opened.attrs)
    except _H5PY_RAISES as error:
        raise DamagedError(
            f"HDF5 file {file.path} is truncated or damaged: {plain(str(error))}"
        ) from error
    return Archive(file.path, "HDF5", found, facts=facts)


class _Bytes(io.RawIOBase):
    """The file as h5py reads it: what is not there is an error.

    By itself the library fills up with zeros what is said to lie behind the end, gigabytes of them.
    """

    def __init__(self, file: MappedFile) -> None:
        super().__init__()
        self._file, self._at = file, 0

    def readable(self) -> bool:
        """See ``io.RawIOBase``."""
        return True

    def seekable(self) -> bool:
        """See ``io.RawIOBase``."""
        return True

    def tell(self) -> int:
        """See ``io.RawIOBase``."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """See ``io.RawIOBase``."""
        begin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        self._at = begin + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        """See ``io.RawIOBase``. Raises OSError where there are fewer bytes."""
        count = len(buffer)
        if self._at + count > self._file.size:
            raise OSError(f"bytes {self._at} to {self._at + count} of {self._file.size}")
        buffer[:] = self._file.read(self._at, count)
        self._at += count
        return count


def _text(value: Any) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return text[:_SHOWN]


def _walk(h5py: Any, top: Any, budget: Budget) -> Iterator[tuple[str, Any]]:
    """Give data sets and links by path, in order of names; a group is entered once."""
    seen: set[Any] = set()
    waiting = [("", top)]
    while waiting:
        path, item = waiting.pop()
        if not isinstance(item, h5py.Group):
            yield path, item
            continue
        address = h5py.h5o.get_info(item.id).addr
        if address in seen:
            continue
        seen.add(address)
        names = sorted(item)
        budget.spend(_COST * len(names) + sum(map(len, names)) + len(path) * len(names))
        below = []
        for name in names:
            link = item.get(name, getlink=True)
            inner = item[name] if isinstance(link, h5py.HardLink) else link
            below.append((f"{path}/{name}".lstrip("/"), inner))
        waiting += reversed(below)


def _entry(file: MappedFile, h5py: Any, item: Any) -> Entry:
    if not isinstance(item, h5py.Dataset):
        return RefusedEntry("is a link to somewhere else, which is not followed")
    if item.is_virtual or item.external:
        return RefusedEntry("has its numbers in another file, which is not opened")
    code = item.dtype.str
    if item.shape is None or code[1:] not in BY_NUMPY:
        return RefusedEntry(f"is of a dtype that torch does not have ({str(item.dtype)[:40]})")
    dtype = BY_NUMPY[code[1:]]
    spec = TensorSpec(tuple(map(int, item.shape)), dtype.name)
    nbytes = shapes.count(spec.shape) * dtype.itemsize
    plan = item.id.get_create_plist()
    filters = {plan.get_filter(number)[0] for number in range(plan.get_nfilters())}
    if filters - _BUILT_IN:
        return RefusedEntry(
            f"is packed by a filter from a plug-in ({min(filters - _BUILT_IN)})", spec
        )
    blob = _blob(file, h5py, item, nbytes)
    return TensorEntry(spec, blob, big_endian=code[0] == ">" and dtype.itemsize > 1)


def _blob(file: MappedFile, h5py: Any, item: Any, nbytes: int) -> Blob:
    offset = item.id.get_offset()
    # Numbers of other widths, such as bfloat16, are said to be the next kind that numpy has.
    is_numpys = item.id.get_type().equal(h5py.h5t.py_create(item.dtype))
    if offset is not None and item.chunks is None and is_numpys:
        if offset + nbytes > file.size:
            raise ValueError(f"{item.name!r} ends at byte {offset + nbytes} of {file.size}")
        return Region(file, offset, nbytes)
    if nbytes > file.size + ALLOWANCE:
        raise ValueError(f"{item.name!r} would take {nbytes} bytes, far more than the file has")
    return _Chunks(file.path, item, nbytes)


@dataclass(frozen=True, eq=False)
class _Chunks:
    """A data set that is put together from chunks when it is asked for."""

    path: Path
    item: Any
    nbytes: int

    def view(self) -> memoryview:
        """See ``Blob``."""
        numpy = importlib.import_module("numpy")
        found = bytearray(self.nbytes)
        try:
            self.item.read_direct(numpy.frombuffer(found, self.item.dtype).reshape(self.item.shape))
        except _H5PY_RAISES as error:
            raise DamagedError(
                f"HDF5 file {self.path}: {self.item.name!r} cannot be read: {plain(str(error))}"
            ) from error
        return memoryview(found)

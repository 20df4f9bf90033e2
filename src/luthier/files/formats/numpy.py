"""NumPy's .npy and .npz, without numpy and without torch.

A header is a literal of Python; what numpy writes is so regular that it is matched, not evaluated.
Arrays of objects are pickles, and stay closed.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from luthier.errors import DamagedError
from luthier.files.dtypes import BY_NUMPY
from luthier.files.entries import Archive, Entry, RefusedEntry, TensorEntry
from luthier.files.limits import Budget
from luthier.files.mapped import Blob, MappedFile, Region
from luthier.files.parsing import shapes
from luthier.files.parsing.zips import Member, Zip
from luthier.values import TensorSpec

_MAGIC = b"\x93NUMPY"
_LONGEST_HEADER = 1 << 20  # bytes; numpy itself writes up to 64 kB, and reads 10 kB
_COST = 1_500  # bytes of memory that an array takes here
_ITEM = re.compile(
    r"""\s*(?:'(?P<key>\w+)'|"(?P<key2>\w+)")\s*:\s*
    (?:'(?P<text>[^'\\]*)'|"(?P<text2>[^"\\]*)"|(?P<flag>True|False)|\((?P<sizes>[\d\s,L]*)\))
    \s*(?:,|(?=\}))""",
    re.VERBOSE,
)
_SIZE = re.compile(r"\s*(\d{1,19})L?\s*")
_KINDS = {
    "O": "holds objects of Python, which only a pickle could give",
    "U": "holds texts",
    "S": "holds texts",
    "V": "holds records or raw bytes",
    "M": "holds dates",
    "m": "holds durations",
}


@dataclass(frozen=True)
class _Header:
    """What a header says: ``begin`` is where the array's bytes begin."""

    begin: int
    descr: str
    fortran: bool
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class _Behind:
    """The bytes of a blob from one on."""

    blob: Blob
    start: int

    @property
    def nbytes(self) -> int:
        """See ``Blob``."""
        return self.blob.nbytes - self.start

    def view(self) -> memoryview:
        """See ``Blob``."""
        return self.blob.view()[self.start :]


def read(file: MappedFile) -> Archive:
    """Read the headers; the arrays stay on the disk.

    A .npy holds one array, and so the content is one entry; that of a .npz is arrays by name.

    Raises:
        DamagedError: a header is none, or says something else than the size.
    """
    if file.read(0, min(file.size, 4)) == _MAGIC[:4]:
        region = Region(file, 0, file.size)
        first = _array(region, lambda count: file.read(0, min(count, file.size)), str(file.path))
        return Archive(file.path, "numpy", first)
    budget = Budget.of_size(file.size, str(file.path))
    members = Zip(file, budget)
    budget.spend(_COST * len(members.members))
    content = {
        name.removesuffix(".npy"): _array(
            members.blob(name), partial(_beginning, file, member), f"{file.path}: array {name!r}"
        )
        for name, member in members.members.items()
    }
    return Archive(file.path, "numpy", content, check=members.check)


def _beginning(file: MappedFile, member: Member, count: int) -> bytes:
    # Not through its blob, which would read all of it to compare the checksum.
    if not member.is_deflated:
        return file.read(member.start, min(count, member.size))
    packed = file.read(member.start, min(member.packed, count + 1024))
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, count)
    except zlib.error as error:
        raise DamagedError(f"{file.path}: {member.name!r} cannot be inflated: {error}") from error


def _array(blob: Blob, beginning: Callable[[int], bytes], what: str) -> Entry:
    try:
        return _entry(blob, _header(blob.nbytes, beginning))
    except ValueError as error:
        raise DamagedError(f"{what} is truncated or damaged: {error}") from error


def _header(size: int, beginning: Callable[[int], bytes]) -> _Header | RefusedEntry:
    start = beginning(12)
    wide = 2 if start[6:7] == b"\x01" else 4
    if start[:6] != _MAGIC or start[6:7] not in (b"\x01", b"\x02", b"\x03") or len(start) < 12:
        raise ValueError(f"it begins with {start[:8]!r}, which is no header of numpy's")
    length = int.from_bytes(start[8 : 8 + wide], "little")
    begin = 8 + wide + length
    if begin > size:
        raise ValueError(f"a header of {length} bytes in {size}")
    if length > _LONGEST_HEADER:
        raise ValueError(f"a header of {length} bytes, at most {_LONGEST_HEADER} expected")
    text = beginning(begin)[8 + wide :].decode("utf-8" if start[6] == 3 else "latin-1")
    if re.search(r"""['"]descr['"]\s*:\s*[\[(]""", text):
        return RefusedEntry(_KINDS["V"])
    return _parsed(begin, text)


def _parsed(begin: int, text: str) -> _Header:
    wrong = ValueError(f"its header is {text[:100].strip()!r}")
    at, found = 1, {}
    if text[:1] != "{":
        raise wrong
    while item := _ITEM.match(text, at):
        at = item.end()
        found[item["key"] or item["key2"]] = item
    if text[at:].strip() != "}" or found.keys() != {"descr", "fortran_order", "shape"}:
        raise wrong
    descr = found["descr"]["text"] or found["descr"]["text2"]
    flag, sizes = found["fortran_order"]["flag"], found["shape"]["sizes"]
    if descr is None or flag is None or sizes is None:
        raise wrong
    parts = sizes.split(",")
    parts = parts[:-1] if not parts[-1].strip() else parts
    matched = [_SIZE.fullmatch(part) for part in parts]
    if None in matched:
        raise wrong
    return _Header(begin, descr, flag == "True", tuple(int(m[1]) for m in matched if m))


def _entry(blob: Blob, header: _Header | RefusedEntry) -> Entry:
    if isinstance(header, RefusedEntry):
        return header
    order, code = header.descr[:1], header.descr[1:]
    if order not in ("<", ">", "|", "=") or code not in BY_NUMPY:
        why = _KINDS.get(header.descr.lstrip("<>|=")[:1], "is of a dtype that torch does not have")
        return RefusedEntry(f"{why} (numpy's {header.descr[:40]!r})")
    dtype = BY_NUMPY[code]
    count = shapes.count(header.shape)
    held = blob.nbytes - header.begin
    if count * dtype.itemsize != held:
        raise ValueError(
            f"its header says {dtype.name} of shape {list(header.shape)}, which takes"
            f" {count * dtype.itemsize} bytes, and {held} follow"
        )
    return TensorEntry(
        TensorSpec(header.shape, dtype.name),
        _behind(blob, header.begin),
        strides=_fortran_strides(header.shape) if header.fortran and count else None,
        big_endian=order == ">" and dtype.itemsize > 1,
    )


def _behind(blob: Blob, begin: int) -> Blob:
    if isinstance(blob, Region):
        return Region(blob.file, blob.start + begin, blob.nbytes - begin)
    return _Behind(blob, begin)


def _fortran_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for length in shape:
        strides.append(step)
        step *= max(length, 1)
    return tuple(strides)

"""The structure of a zip file, read strictly: what could be read in two ways is damage.

The standard library's reader believes the central directory, others believe the headers before
the contents, and torch's takes what it finds: here both must say the same, and the entries must
fill the file from its first byte to the central directory, without gaps and without overlaps.
The format is that of PKWARE's APPNOTE.TXT 6.3.10.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from luthier.errors import DamagedError, UnsupportedFileError
from luthier.files.limits import Budget
from luthier.files.mapped import MappedFile

STORED, DEFLATED = 0, 8
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_DESCRIPTORS = {  # by their length: with or without a signature, sizes of 4 or of 8 bytes
    12: (b"", struct.Struct("<LLL")),
    16: (b"PK\x07\x08", struct.Struct("<4xLLL")),
    20: (b"", struct.Struct("<LQQ")),
    24: (b"PK\x07\x08", struct.Struct("<4xLQQ")),
}
_IN_EXTRA = 0xFFFFFFFF
_MANY = 0xFFFF
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_PATCH = 0x20
_DESCRIBED_BEHIND = 0x8
_UTF_8 = 0x800
_METHODS = {9: "deflate64", 12: "bzip2", 14: "LZMA", 93: "zstandard", 95: "xz"}
_COST = 600  # bytes of memory that an entry takes here, at most


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a zip file.

    Attributes:
        raw_name: its name as it is written there.
        header: where its header begins in the file.
        flags: of its header.
        method: ``STORED`` or ``DEFLATED``.
        crc: the CRC-32 of its content. torch can be told to write none, and then it is 0.
        packed: the number of its bytes in the file.
        size: the number of bytes of its content.
    """

    raw_name: bytes
    header: int
    flags: int
    method: int
    crc: int
    packed: int
    size: int


def read(file: MappedFile, budget: Budget) -> list[tuple[str, int, Entry]]:
    """Read the directory and the headers of a zip file, and no content.

    Args:
        file: from its first byte to its last.
        budget: what its entries may cost.

    Returns:
        the name of each entry, where its bytes begin in the file, and what is said of it; in the
        order of the central directory.

    Raises:
        DamagedError: it is truncated, or contradicts itself, or names a file outside of it.
        UnsupportedFileError: it is encrypted, or compressed in another way than by deflate.
    """
    start, size, count = _find_directory(file)
    entries = _read_directory(file, start, size, count, budget)
    starts = _check_headers(file, entries, start)
    return [(_name(file, entry), starts[entry.header], entry) for entry in entries]


def _find_directory(file: MappedFile) -> tuple[int, int, int]:
    """Return where the central directory begins, its bytes, and how many entries it has."""
    tail_size = min(file.size, _END.size + _MANY)
    tail = file.read(file.size - tail_size, tail_size)
    found = [at for at in _occurrences(tail, b"PK\x05\x06") if _ends_at_end(tail, at)]
    if len(found) != 1:
        why = "it has no end record" if not found else "it has several end records"
        raise damaged(file, f"{why} that ends with the file")
    at = file.size - tail_size + found[0]
    _, disk, first_disk, here, count, size, start, _ = _END.unpack_from(tail, found[0])
    if disk not in (0, _MANY) or first_disk not in (0, _MANY) or here != count:
        raise damaged(file, "it is a part of a zip file in several parts")
    end = at
    if at >= _LOCATOR.size and file.read(at - _LOCATOR.size, 4) == b"PK\x06\x07":
        end, wide = _zip64_end(file, at - _LOCATOR.size)
        limits = (_MANY, _IN_EXTRA, _IN_EXTRA)
        for narrow, limit, value in zip((count, size, start), limits, wide, strict=True):
            if narrow not in (limit, value):
                raise damaged(file, f"its two end records say {narrow} and {value}")
        count, size, start = wide
    if start + size != end:
        raise damaged(
            file,
            f"its central directory is said to end at byte {start + size}, expected {end}",
        )
    return start, size, count


def _occurrences(content: bytes, part: bytes) -> Iterator[int]:
    at = content.find(part)
    while at >= 0:
        yield at
        at = content.find(part, at + 1)


def _ends_at_end(tail: bytes, at: int) -> bool:
    if at + _END.size > len(tail):
        return False
    return at + _END.size + int(_END.unpack_from(tail, at)[-1]) == len(tail)


def _zip64_end(file: MappedFile, locator: int) -> tuple[int, tuple[int, int, int]]:
    """Return where the record begins; its number of entries, bytes and start of the directory."""
    _, disk, at, disks = _LOCATOR.unpack(file.read(locator, _LOCATOR.size))
    if disk or disks > 1 or at + _END_64.size != locator:
        raise damaged(file, f"its zip64 end record is said to be at byte {at}")
    found = _END_64.unpack(file.read(at, _END_64.size))
    signature, size, _, _, disk, first_disk, here, count, directory, start = found
    if signature != b"PK\x06\x06" or size != _END_64.size - 12 or here != count:
        raise damaged(file, f"its zip64 end record, at byte {at}, is none")
    if disk or first_disk:
        raise damaged(file, "it is a part of a zip file in several parts")
    return at, (count, directory, start)


def _read_directory(
    file: MappedFile, start: int, size: int, count: int, budget: Budget
) -> list[Entry]:
    if count * _CENTRAL.size > size:
        raise damaged(file, f"a central directory of {size} bytes cannot hold {count} entries")
    budget.spend(size + count * _COST)
    content, at = file.read(start, size), 0
    entries: list[Entry] = []
    while at < size:
        if len(entries) == count or at + _CENTRAL.size > size:
            raise damaged(file, f"its central directory has not {count} entries, as it says")
        entry, at = _central_entry(file, content, at)
        entries.append(entry)
    if len(entries) != count:
        raise damaged(file, f"it has {len(entries)} entries, and says {count}")
    return entries


def _central_entry(file: MappedFile, content: bytes, at: int) -> tuple[Entry, int]:
    found = _CENTRAL.unpack_from(content, at)
    signature, made_by, _, flags, method, _, _, crc, packed, size, *rest = found
    name_size, extra_size, comment_size, disk, _, attributes, header = rest
    begin = at + _CENTRAL.size
    end = begin + name_size + extra_size + comment_size
    if signature != b"PK\x01\x02" or end > len(content) or disk not in (0, _MANY):
        raise damaged(file, f"its central directory is broken at byte {at}")
    raw_name = content[begin : begin + name_size]
    extra = content[begin + name_size : begin + name_size + extra_size]
    size, packed, header = _widened(file, raw_name, extra, (size, packed, header))
    if header + _LOCAL.size > file.size:
        raise damaged(file, f"entry {raw_name!r} is said to begin at byte {header} of {file.size}")
    _check_kind(file, raw_name, flags, method)
    _check_attributes(file, raw_name, made_by >> 8, attributes, size)
    return Entry(raw_name, header, flags, method, crc, packed, size), end


def _widened(
    file: MappedFile, name: bytes, extra: bytes, narrow: tuple[int, ...]
) -> tuple[int, ...]:
    """Return the sizes, those that do not fit into 4 bytes from the zip64 field."""
    fields = [data for kind, data in _extra_fields(file, name, extra) if kind == 1]
    wanted = [value == _IN_EXTRA for value in narrow]
    room = 8 * sum(wanted)
    if len(fields) > 1 or (fields and len(fields[0]) not in (room, room + 4)):
        raise damaged(file, f"entry {name!r} has a zip64 field that does not belong to its sizes")
    if not fields:
        if any(wanted):
            raise damaged(file, f"entry {name!r} has no zip64 field for its sizes")
        return narrow
    wide = iter(struct.unpack_from(f"<{sum(wanted)}Q", fields[0]))
    return tuple(next(wide) if is_wide else v for v, is_wide in zip(narrow, wanted, strict=True))


def _extra_fields(file: MappedFile, name: bytes, extra: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, at)
        if at + 4 + size > len(extra):
            raise damaged(file, f"entry {name!r} has an extra field longer than there is room")
        yield kind, extra[at + 4 : at + 4 + size]
        at += 4 + size


def _check_kind(file: MappedFile, name: bytes, flags: int, method: int) -> None:
    if flags & _ENCRYPTED:
        raise UnsupportedFileError(
            f"zip file {file.path} is encrypted: entry {name!r}",
            cure="decrypt it first: luthier asks for no passwords",
        )
    if method not in (STORED, DEFLATED) or flags & _PATCH:
        raise UnsupportedFileError(
            f"zip file {file.path}: entry {name!r} is compressed with"
            f" {_METHODS.get(method, f'method {method}')}; only stored and deflated ones are read",
            cure="unpack it and pack it again without compression",
        )


def _check_attributes(
    file: MappedFile, name: bytes, system: int, attributes: int, size: int
) -> None:
    # torch's reader gives uninitialised memory for an entry that is flagged as a folder.
    unix_kind = attributes >> 28 if system == 3 else 0
    is_folder = attributes & 0x10 or unix_kind == 0o4
    if (is_folder or name.endswith(b"/")) and (size or not name.endswith(b"/")):
        raise damaged(file, f"entry {name!r} is a folder and a file of {size} bytes at once")
    if unix_kind not in (0, 0o4, 0o10):
        raise damaged(file, f"entry {name!r} is neither a file nor a folder but a link or device")


def _check_headers(file: MappedFile, entries: list[Entry], directory: int) -> dict[int, int]:
    """Compare each entry with the header before its content; return where the contents begin."""
    ordered = sorted(entries, key=lambda entry: entry.header)
    ends = [*(entry.header for entry in ordered[1:]), directory][: len(ordered)]
    starts: dict[int, int] = {}
    at = 0
    for entry, end in zip(ordered, ends, strict=True):
        if entry.header != at:
            what = "overlaps another" if entry.header < at else "does not follow the one before"
            raise damaged(
                file,
                f"entry {entry.raw_name!r} begins at byte {entry.header}, expected {at}: it {what}",
            )
        starts[at] = _check_header(file, entry, end)
        at = end
    if at != directory:
        raise damaged(file, f"no entry holds its first {directory} bytes")
    return starts


def _check_header(file: MappedFile, entry: Entry, end: int) -> int:
    found = _LOCAL.unpack(file.read(entry.header, _LOCAL.size))
    signature, _, flags, method, _, _, crc, packed, size, name_size, extra_size = found
    start: int = entry.header + _LOCAL.size + name_size + extra_size
    if signature != b"PK\x03\x04" or start + entry.packed > end:
        raise damaged(
            file,
            f"entry {entry.raw_name!r} does not fit between byte {entry.header} and {end}, or"
            " another one lies there",
        )
    texts = file.read(entry.header + _LOCAL.size, name_size + extra_size)
    if (texts[:name_size], flags, method) != (entry.raw_name, entry.flags, entry.method):
        raise _differs(file, entry)
    if entry.method == STORED and entry.packed != entry.size:
        raise damaged(file, f"entry {entry.raw_name!r} is stored, and has two sizes")
    if flags & _DESCRIBED_BEHIND:
        _check_descriptor(file, entry, (crc, packed, size), start + entry.packed, end)
        return start
    size, packed = _widened(file, entry.raw_name, texts[name_size:], (size, packed))
    if (crc, packed, size) != (entry.crc, entry.packed, entry.size):
        raise _differs(file, entry)
    if start + packed != end:
        raise damaged(file, f"no entry holds the bytes from {start + packed} to {end}")
    return start


def _check_descriptor(
    file: MappedFile, entry: Entry, before: tuple[int, ...], at: int, end: int
) -> None:
    """Compare what stands behind an entry's content, and, where it is given, before it."""
    expected = (entry.crc, entry.packed, entry.size)
    if end - at not in _DESCRIPTORS:
        raise damaged(file, f"no entry holds the bytes from {at} to {end}")
    signature, kind = _DESCRIPTORS[end - at]
    content = file.read(at, end - at)
    if kind.unpack(content) != expected or not content.startswith(signature):
        raise _differs(file, entry)
    for value, limit, right in zip(before, (0, _IN_EXTRA, _IN_EXTRA), expected, strict=True):
        if value not in (0, limit, right):
            raise _differs(file, entry)


def _name(file: MappedFile, entry: Entry) -> str:
    raw = entry.raw_name
    try:
        name = raw.decode("utf-8" if entry.flags & _UTF_8 else "cp437")
    except UnicodeDecodeError as error:
        raise damaged(file, f"the name {raw!r} of an entry is no UTF-8") from error
    parts = name.split("/")
    if not name or "\0" in name or "\\" in name or ".." in parts or "" in parts[:-1]:
        raise damaged(file, f"the name {name!r} of an entry leads out of the file")
    if name[1:3] == ":/":
        raise damaged(file, f"the name {name!r} of an entry leads out of the file")
    return name


def _differs(file: MappedFile, entry: Entry) -> DamagedError:
    return damaged(
        file, f"entry {entry.raw_name!r} differs from what the central directory says of it"
    )


def damaged(file: MappedFile, what: str) -> DamagedError:
    """Build the error about a zip file that contradicts itself."""
    return DamagedError(
        f"zip file {file.path} is truncated or damaged: {what}", cure="fetch or copy it again"
    )

"""The entries of a zip file, as bytes that are read when they are asked for. No torch, no numpy.

A stored entry lies in the mapped file; a deflated one is inflated when it is needed, under a
limit, and is in memory only while somebody holds it, or until the next one of the file.
"""

from __future__ import annotations

import weakref
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from luthier.files.limits import ALLOWANCE, Budget
from luthier.files.mapped import Blob, MappedFile
from luthier.files.parsing import zip_structure
from luthier.files.parsing.zip_structure import DEFLATED, damaged

_MOST_INFLATED = 1032  # bytes of content from one byte of deflate's
_CHUNK = 2**18


@dataclass(frozen=True, slots=True)
class Member:
    """An entry of a zip file.

    Attributes:
        name: as it is written there.
        start: where its bytes begin in the file.
        packed: their number in the file.
        size: the number of bytes of its content.
        crc: the CRC-32 of its content. torch can be told to write none, and then it is 0.
        is_deflated: its bytes are deflated; else they are the content.
    """

    name: str
    start: int
    packed: int
    size: int
    crc: int
    is_deflated: bool

    @property
    def is_checked(self) -> bool:
        """It has a checksum."""
        return self.crc != 0 or self.size == 0


class Zip:
    """The entries of a zip file. Opening reads the directory and the headers, and no content.

    Args:
        file: from its first byte to its last.
        budget: what its entries may cost.

    Attributes:
        file: see Args.
        members: by name, in the order of the central directory, without folders.

    Raises:
        DamagedError: it is truncated, or contradicts itself, or names a file outside of it.
        UnsupportedFileError: it is encrypted, or compressed in another way than by deflate.
    """

    def __init__(self, file: MappedFile, budget: Budget) -> None:
        self.file = file
        self.members: dict[str, Member] = {}
        self._blobs: dict[str, Blob] = {}
        self._last: list[Content] = []
        for name, start, entry in zip_structure.read(file, budget):
            if name in self.members:
                raise damaged(file, f"it has two entries {name!r}")
            is_deflated = entry.method == DEFLATED
            member = Member(name, start, entry.packed, entry.size, entry.crc, is_deflated)
            _check_size(file, member)
            self.members[name] = member
        for name in [name for name in self.members if name.endswith("/")]:
            del self.members[name]

    def blob(self, name: str) -> Blob:
        """Return the content of an entry: the same object at each call.

        Raises:
            KeyError: it has no such entry.
        """
        if name not in self._blobs:
            member = self.members[name]
            self._blobs[name] = (
                _Inflated(self.file, member, self._last)
                if member.is_deflated
                else _Stored(self.file, member)
            )
        return self._blobs[name]

    def read(self, name: str, limit: int) -> bytes:
        """Return the content of a small entry.

        Args:
            name: of the entry.
            limit: the most bytes that it may have.

        Raises:
            KeyError: it has no such entry. DamagedError: it is larger, or not what its CRC says.
        """
        size = self.members[name].size
        if size > limit:
            raise damaged(self.file, f"entry {name!r} has {size} bytes, at most {limit} expected")
        return bytes(self.blob(name).view())

    def check(self) -> None:
        """Compare every entry with its CRC-32, a piece at a time.

        Raises:
            DamagedError: one differs; it is named.
        """
        for member in self.members.values():
            for _ in _compared(self.file, member, _pieces(self.file, member)):
                pass


def _check_size(file: MappedFile, member: Member) -> None:
    most = file.size + ALLOWANCE
    if member.is_deflated:
        most = min(most, _MOST_INFLATED * member.packed)
    if member.size > most:
        raise damaged(
            file,
            f"entry {member.name!r} has {member.packed} bytes and says that its content has"
            f" {member.size}: over the limit of {most}",
        )


class _Stored:
    """The content of an entry that lies in the file as it is."""

    def __init__(self, file: MappedFile, member: Member) -> None:
        self._file = file
        self._member = member
        self._is_compared = not member.is_checked

    @property
    def nbytes(self) -> int:
        """See ``Blob``."""
        return self._member.size

    def view(self) -> memoryview:
        """See ``Blob``. The checksum is compared when it is called for the first time."""
        view = self._file.view(self._member.start, self._member.size)
        if not self._is_compared:
            for _ in _compared(self._file, self._member, iter((view,))):
                pass
            self._is_compared = True
        return view


class Content(bytearray):
    """Bytes to which a weak reference can be held: in memory while somebody uses them."""


class _Inflated:
    """The content of an entry that is deflated.

    The last one of a file is kept, or it would be inflated for each of the tensors that share it.
    """

    def __init__(self, file: MappedFile, member: Member, last: list[Content]) -> None:
        self._file = file
        self._member = member
        self._last = last
        self._content: Callable[[], Content | None] = lambda: None

    @property
    def nbytes(self) -> int:
        """See ``Blob``."""
        return self._member.size

    def view(self) -> memoryview:
        """See ``Blob``."""
        content = self._content()
        if content is None:
            self._last.clear()
            content, at = Content(self._member.size), 0
            for piece in _compared(self._file, self._member, _pieces(self._file, self._member)):
                content[at : at + len(piece)] = piece
                at += len(piece)
            self._content = weakref.ref(content)
            self._last.append(content)
        return memoryview(content)


def _pieces(file: MappedFile, member: Member) -> Iterator[bytes]:
    """Give the content of an entry in order; never more than one byte too many."""
    packed = (
        file.read(member.start + at, min(_CHUNK, member.packed - at))
        for at in range(0, member.packed, _CHUNK)
    )
    return _inflated(file, member, packed) if member.is_deflated else packed


def _inflated(file: MappedFile, member: Member, packed: Iterator[bytes]) -> Iterator[bytes]:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    left = member.size + 1
    try:
        for chunk in packed:
            waiting = chunk
            while waiting and left and not inflater.eof:
                piece = inflater.decompress(waiting, min(left, _CHUNK))
                waiting, left = inflater.unconsumed_tail, left - len(piece)
                yield piece
            if waiting or inflater.unused_data:
                break
        yield inflater.flush() if left else b""
    except zlib.error as error:
        raise damaged(file, f"entry {member.name!r} cannot be inflated: {error}") from error
    if not inflater.eof or inflater.unused_data or inflater.unconsumed_tail:
        raise damaged(file, f"entry {member.name!r} ends elsewhere than its content")


_Piece = TypeVar("_Piece", bytes, memoryview)


def _compared(file: MappedFile, member: Member, pieces: Iterator[_Piece]) -> Iterator[_Piece]:
    """Give the pieces on; having given the last, compare their size and CRC."""
    crc, size = 0, 0
    for piece in pieces:
        crc, size = zlib.crc32(piece, crc), size + len(piece)
        yield piece
    if size != member.size:
        raise damaged(
            file, f"entry {member.name!r} has {size} bytes of content, expected {member.size}"
        )
    if member.is_checked and crc != member.crc:
        raise damaged(
            file,
            f"entry {member.name!r} has the CRC-32 {crc:08x}, expected {member.crc:08x}: its"
            " content has changed since it was written",
        )

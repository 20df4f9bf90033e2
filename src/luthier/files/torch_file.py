"""A state_dict as a zip file that ``torch.load(weights_only=True)`` reads; written without torch.

The container is a zip archive whose members are stored uncompressed, each storage at a multiple of
64 bytes so that it can be mapped; ``data.pkl`` is a pickle (protocol 2) of nothing but names,
numbers and references to the storages. torch writes the same, but needs every tensor at once, and
is not written through ``disk``. The same tensors give the same bytes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from luthier.files.dtypes import DTYPES
from luthier.files.layout import nbytes
from luthier.values import TensorSpec

Bytes = bytes | memoryview
_ROOT = "archive"
_ALIGNMENT = 64
_ELSEWHERE = 0xFFFFFFFF  # what a field of 32 bits says where the number is in a field of 64
_TOO_LARGE = _ELSEWHERE  # the first number that is put there
_DATE = 0x0021  # 1 January 1980, the first day that zip knows
_ORDERED_DICT = b"ccollections\nOrderedDict\n"


@dataclass(frozen=True)
class Storage:
    """What is stored once, whatever names it has.

    Attributes:
        spec: the elements lie in order.
        read: gives the bytes when their turn comes.
    """

    spec: TensorSpec
    read: Callable[[], memoryview]


def chunks(names: Mapping[str, int], storages: list[Storage]) -> Iterator[Bytes]:
    """Give a file's content piece by piece; at most one storage is held at a time.

    Args:
        names: in their order, each with the number of its storage.
        storages: each is read once.
    """
    specs = [storage.spec for storage in storages]
    archive = _Zip()
    yield from archive.member("data.pkl", pickle_of(names, specs))
    yield from archive.member("byteorder", b"little")
    for number, storage in enumerate(storages):
        yield from archive.member(f"data/{number}", storage.read())
    yield from archive.member("version", b"3\n")
    yield from archive.directory()


def pickle_of(names: Mapping[str, int], specs: list[TensorSpec]) -> bytes:
    """Return ``data.pkl`` of an ordered dict of tensors."""
    parts = [b"\x80\x02", _ORDERED_DICT, b")R("]
    for name, number in names.items():
        parts += [_text(name), _tensor(specs[number], str(number))]
    return b"".join([*parts, b"u."])


def _tensor(spec: TensorSpec, key: str) -> bytes:
    dtype = DTYPES[spec.dtype]
    parts = [b"ctorch._utils\n_rebuild_tensor_v%d\n" % (2 if dtype.storage else 3)]
    named = f"ctorch\n{dtype.storage}\n" if dtype.storage else "ctorch.storage\nUntypedStorage\n"
    size = nbytes(spec) // (dtype.itemsize if dtype.storage else 1)
    parts += [b"((", _text("storage"), named.encode(), _text(key), _text("cpu"), _int(size), b"tQ"]
    strides = [1]
    for length in reversed(spec.shape[1:]):
        strides.append(strides[-1] * max(length, 1))
    in_order = strides[: len(spec.shape)][::-1]
    parts += [_int(0), _ints(spec.shape), _ints(in_order), b"\x89", _ORDERED_DICT, b")R"]
    if not dtype.storage:
        parts.append(f"ctorch\n{dtype.name}\n".encode())
    return b"".join([*parts, b"tR"])


def _text(value: str) -> bytes:
    encoded = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def _int(value: int) -> bytes:
    if value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    encoded = value.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def _ints(values: Iterable[int]) -> bytes:
    return b"(" + b"".join(map(_int, values)) + b"t"


@dataclass
class _Zip:
    at: int = 0
    entries: list[bytes] = field(default_factory=list)

    def member(self, name: str, content: Bytes) -> Iterator[Bytes]:
        path, size = f"{_ROOT}/{name}".encode(), memoryview(content).nbytes
        large = struct.pack("<HHQQ", 1, 16, size, size) if size >= _TOO_LARGE else b""
        extra = large + _padding(self.at + 30 + len(path) + len(large))
        facts = self._facts(size, zlib.crc32(content), len(path))
        yield b"PK\x03\x04" + facts + struct.pack("<H", len(extra)) + path + extra
        yield content
        self._enter(path, size, facts)
        self.at += 30 + len(path) + len(extra) + size

    def _facts(self, size: int, crc: int, length: int) -> bytes:
        shown = _shown(size)
        needed = 45 if shown == _ELSEWHERE else 20
        return struct.pack("<HHHHHIIIH", needed, 0, 0, 0, _DATE, crc, shown, shown, length)

    def _enter(self, path: bytes, size: int, facts: bytes) -> None:
        wide = [number for number in (size, size, self.at) if number >= _TOO_LARGE]
        extra = struct.pack(f"<HH{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
        version = b"\x2d\x00" if wide else b"\x14\x00"
        rest = struct.pack("<HHHHII", len(extra), 0, 0, 0, 0, _shown(self.at))
        self.entries.append(b"PK\x01\x02" + version + facts + rest + path + extra)

    def directory(self) -> Iterator[bytes]:
        content = b"".join(self.entries)
        yield content
        count, size, start = len(self.entries), len(content), self.at
        if count >= 0xFFFF or max(size, start) >= _TOO_LARGE:
            end = struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, size, start)
            yield b"PK\x06\x06" + end + b"PK\x06\x07" + struct.pack("<IQI", 0, start + size, 1)
        shown = min(count, 0xFFFF), min(count, 0xFFFF), _shown(size), _shown(start)
        yield b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, *shown, 0)


def _shown(number: int) -> int:
    return number if number < _TOO_LARGE else _ELSEWHERE


def _padding(start: int) -> bytes:
    """Return an extra field after which the data begins at a multiple of the alignment."""
    length = -(start + 4) % _ALIGNMENT
    return b"FB" + struct.pack("<H", length) + b"Z" * length

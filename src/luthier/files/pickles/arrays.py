"""numpy's arrays, dtypes and scalars as pickles hold them. Neither numpy nor torch here."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

from luthier.files.dtypes import BY_NUMPY
from luthier.files.entries import Entry, Global, Name, Record, RefusedEntry, TensorEntry
from luthier.files.limits import Broken
from luthier.files.pickles.containers import Builder, Maker
from luthier.values import TensorSpec

MOST_DIMENSIONS = 64
LONGEST = (1 << 63) - 1
_COST = 900  # bytes of memory of an array's entry and blob

_OTHER_KINDS = {
    "O": "objects of Python",
    "U": "strings",
    "S": "byte strings",
    "a": "byte strings",
    "V": "records",
    "M": "dates",
    "m": "durations",
}
_FORMATS = {
    "f8": "d",
    "f4": "f",
    "f2": "e",
    "c8": "ff",
    "c16": "dd",
    "i8": "q",
    "i4": "i",
    "i2": "h",
    "i1": "b",
    "u8": "Q",
    "u4": "I",
    "u2": "H",
    "u1": "B",
    "b1": "?",
}


@dataclass(eq=False)
class Unfinished(Record):
    """What a pickle completes in a second step, with the state that BUILD gives it.

    Where that step is missing, it stays the record that it is.

    Attributes:
        places: of the memo that hold it.
    """

    places: list[int] = field(default_factory=list)

    def finish(self, state: Any) -> Any:
        """Return what it becomes."""
        raise NotImplementedError


@dataclass(eq=False)
class Inside:
    """Bytes inside a pickle, where they lie; copied only if that memory cannot be written to."""

    content: bytes | bytearray | memoryview

    @property
    def nbytes(self) -> int:
        """See ``Blob``."""
        return len(self.content)

    def view(self) -> memoryview:
        """See ``Blob``."""
        if memoryview(self.content).readonly:
            self.content = bytearray(self.content)
        return memoryview(self.content)


def dtype(builder: Builder, code: Any, _align: Any = False, _copy: Any = True) -> Any:
    """``numpy.dtype(code, align, copy)``, which a state completes."""
    if not isinstance(code, str):
        return NotImplemented
    builder.budget.spend(700)
    return _Dtype(Global("numpy", "dtype"), (code,))


class _Dtype(Unfinished):
    @property
    def name(self) -> Name:
        return Name("numpy dtype", self.arguments[0])

    def finish(self, state: Any) -> Any:
        """Add the byte order: the state is (version, order, subdtype, names, fields, …)."""
        if not isinstance(state, tuple) or len(state) < 5 or not isinstance(state[1], str):
            raise Broken("the state of a numpy dtype is none")
        code = self.arguments[0]
        if state[2] is not None or state[3] is not None:
            code = "V"
        return Name("numpy dtype", (state[1] if state[1] in "<>" else "") + code)


def _reconstruct(builder: Builder, kind: Any, shape: Any, code: Any) -> Any:
    """``numpy.core.multiarray._reconstruct(ndarray, (0,), b"b")``, which a state completes."""
    if kind != Global("numpy", "ndarray"):
        return NotImplemented
    builder.budget.spend(_COST)
    return _Array(Global("numpy.core.multiarray", "_reconstruct"), (kind, shape, code), {}, True)


class _Array(Unfinished):
    def finish(self, state: Any) -> Any:
        """Return the entry: the state is (version, shape, dtype, is in Fortran's order, data)."""
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise Broken("the state of a numpy array is none")
        shape, kind, is_fortran, content = state[-4:]
        return array(content, kind, shape, "F" if is_fortran else "C")


def _from_buffer(builder: Builder, content: Any, kind: Any, shape: Any, order: Any) -> Any:
    """``numpy.core.numeric._frombuffer(content, dtype, shape, order)`` of protocol 5."""
    builder.budget.spend(_COST)
    return array(content, kind, shape, order)


def array(content: Any, kind: Any, shape: Any, order: Any) -> Entry:
    """Return the entry of an array.

    Args:
        content: its bytes.
        kind: its dtype.
        shape: lengths.
        order: "C" or "F", for Fortran's.

    Raises:
        Broken: they contradict each other.
    """
    code = _code(kind)
    if isinstance(shape, int):
        shape = (shape,)
    known = BY_NUMPY.get(code.lstrip("<>|="))
    if known is None:
        what = _OTHER_KINDS.get(code.lstrip("<>|=")[:1], f"the dtype {code!r}")
        return RefusedEntry(f"is a numpy array of {what}")
    spec = TensorSpec(sizes(shape), known.name)
    entry = TensorEntry(
        spec,
        Inside(_as_bytes(content)),
        strides=_fortran(spec.shape) if order == "F" else None,
        big_endian=code.startswith(">") and known.itemsize > 1,
    )
    if entry.nbytes != entry.blob.nbytes:
        raise Broken(f"a numpy array {spec} has {entry.blob.nbytes} bytes, not {entry.nbytes}")
    return entry


def sizes(shape: Any) -> tuple[int, ...]:
    """Return the shape, checked.

    Raises:
        Broken: it is none.
    """
    if not isinstance(shape, tuple | list) or len(shape) > MOST_DIMENSIONS:
        raise Broken("the shape of a tensor is none")
    for length in shape:
        if type(length) is not int or not 0 <= length <= LONGEST:
            raise Broken(f"a tensor's shape holds {_short(length)}")
    return tuple(shape)


def _short(value: Any) -> str:
    small = isinstance(value, float) or (isinstance(value, int) and value.bit_length() < 200)
    return str(value) if small else f"a {type(value).__name__}"


def _fortran(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    if len(shape) < 2 or 0 in shape:
        return None
    strides, step = [], 1
    for length in shape:
        strides.append(step)
        step *= length
    return tuple(strides)


def _code(kind: Any) -> str:
    if isinstance(kind, _Dtype):
        kind = kind.name
    if isinstance(kind, Name) and kind.kind == "numpy dtype":
        return kind.value
    raise Broken("the dtype of a numpy array is none")


def _as_bytes(content: Any) -> bytes | bytearray | memoryview:
    if isinstance(content, str):  # Python 2, where all of the bytes are ASCII or UTF-8
        return content.encode("utf-8", "surrogatepass")
    if isinstance(content, bytes | bytearray | memoryview):
        return content
    raise Broken("the content of a numpy array is not bytes")


def _scalar(builder: Builder, kind: Any, content: Any = b"") -> Any:
    """``numpy.core.multiarray.scalar(dtype, content)``: a plain number, text or bytes."""
    code = _code(kind)
    plain = code.lstrip("<>|=")
    if plain[:1] == "O" or plain[:1] not in "fciubUSa":
        return NotImplemented
    content = bytes(_as_bytes(content))
    builder.budget.spend(100 + 4 * len(content))
    if plain[:1] in "Sa":
        return content.rstrip(b"\0")
    if plain[:1] == "U":
        text = content.decode("utf-32-be" if code[0] == ">" else "utf-32-le", "surrogatepass")
        return text.rstrip("\0")
    layout = struct.Struct((">" if code[0] == ">" else "<") + _FORMATS.get(plain, "x"))
    if plain not in _FORMATS or layout.size != len(content):
        return NotImplemented
    numbers = layout.unpack(content)
    return complex(*numbers) if plain[0] == "c" else numbers[0]


MAKERS: dict[Global, Maker] = {Global("numpy", "dtype"): dtype}
for _core in ("numpy.core", "numpy._core"):
    MAKERS[Global(f"{_core}.multiarray", "_reconstruct")] = _reconstruct
    MAKERS[Global(f"{_core}.multiarray", "scalar")] = _scalar
    MAKERS[Global(f"{_core}.numeric", "_frombuffer")] = _from_buffer

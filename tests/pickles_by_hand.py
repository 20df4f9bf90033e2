"""Pickles written opcode by opcode, so that they can say anything. For tests and attacks."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luthier.errors import DamagedError
from luthier.files.limits import Budget
from luthier.files.pickles.reader import Unpickled, read_pickle


class Raw(bytes):
    """Opcodes as they are."""


class Reference:
    """A class or function that this process need not have."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class Called:
    """What a call gives."""

    def __init__(self, module: str, name: str, *arguments: Any) -> None:
        self.function = Reference(module, name)
        self.arguments = arguments


class Stored:
    """A storage, by torch's persistent id."""

    def __init__(self, kind: str, key: str, count: int, device: str = "cpu") -> None:
        self.identity = ("storage", Reference("torch", kind), key, device, count)


def pickled(value: Any) -> bytes:
    """Return a pickle (protocol 2) of plain values and the classes above."""
    return b"\x80\x02" + opcodes(value) + b"."


def opcodes(value: Any) -> bytes:
    """Return what pushes a value."""
    if isinstance(value, Raw):
        return value
    if isinstance(value, Reference):
        return f"c{value.module}\n{value.name}\n".encode()
    if isinstance(value, Called):
        return opcodes(value.function) + opcodes(value.arguments) + b"R"
    if isinstance(value, Stored):
        return opcodes(value.identity) + b"Q"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(opcodes, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(opcodes, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(opcodes(part) for pair in value.items() for part in pair) + b"u"
    return pickle.dumps(value, 2)[2:-1]


def touch(marker: Path) -> Called:
    """Return the call that shows, by a file, that it was run."""
    return Called("posix", "system", f"touch {marker}")


def write(folder: Path, content: bytes) -> Path:
    path = folder / "weights.pkl"
    path.write_bytes(content)
    return path


def read(content: bytes, persistent: Callable[[Any], Any] | None = None) -> Unpickled:
    return read_pickle(content, Budget.of_size(len(content), "evil.pkl"), persistent)


def refused(content: bytes, match: str) -> None:
    with pytest.raises(DamagedError, match=match) as caught:
        read(content)
    assert str(caught.value).startswith("evil.pkl ")

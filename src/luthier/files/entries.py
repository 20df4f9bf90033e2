"""What a file holds, as plain values: nothing here is alive, and no torch is needed.

The content of a file is a *tree* of

- ``dict``, ``list``, ``tuple``, ``set``, ``frozenset`` and scalars of Python (``None``, ``bool``,
  ``int``, ``float``, ``complex``, ``str``, ``bytes``, ``bytearray``, ``slice``, ``range``);
- ``TensorEntry``, ``SparseEntry`` and ``RefusedEntry`` for tensors and numpy arrays;
- ``Name`` for a dtype, device, layout or memory format of torch, and the like;
- ``Global`` for a reference to a class or function, ``Record`` for anything that only its code
  could have built.

Lists and dicts may contain themselves and each other: whoever walks a tree uses ``walk`` or keeps
to its limits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luthier.errors import DamagedError
from luthier.files import durable
from luthier.files.dtypes import DTYPES
from luthier.files.mapped import Blob
from luthier.values import TensorSpec

DEEPEST = 1_000  # nesting of a tree


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where a tensor lies in a file.

    Attributes:
        spec: shape and dtype (torch's name of it).
        blob: the storage: tensors that share memory have the same one.
        offset: of the first element in the blob, in elements.
        strides: in elements; None where the elements lie in order.
        big_endian: the bytes of each element are the other way round than on this machine's kind.
        device: where it was when it was saved.
        is_parameter: it was an ``nn.Parameter``.
        requires_grad: it asked for a gradient.
        flags: "conj" and "neg", as torch marks views that are yet to be computed.
    """

    spec: TensorSpec
    blob: Blob
    offset: int = 0
    strides: tuple[int, ...] | None = None
    big_endian: bool = False
    device: str = "cpu"
    is_parameter: bool = False
    requires_grad: bool = False
    flags: frozenset[str] = frozenset()

    @property
    def count(self) -> int:
        """The number of its elements."""
        count = 1
        for length in self.spec.shape:
            count *= length
        return count

    @property
    def nbytes(self) -> int:
        """Bytes of its elements, if each is written once."""
        return self.count * DTYPES[self.spec.dtype].itemsize


@dataclass(frozen=True)
class SparseEntry:
    """A sparse tensor.

    Attributes:
        spec: shape and dtype of the whole.
        layout: torch's name: "sparse_coo", "sparse_csr", …
        parts: its dense tensors: "indices" and "values", or "compressed", "plain" and "values".
        is_coalesced: of sparse_coo.
    """

    spec: TensorSpec
    layout: str
    parts: Mapping[str, TensorEntry]
    is_coalesced: bool = False


@dataclass(frozen=True)
class RefusedEntry:
    """A tensor of a kind that luthier does not give: quantised, nested, of objects, without values.

    Attributes:
        why: for the error, such as ``"is quantised (QInt8Storage)"``.
        spec: where it is known.
    """

    why: str
    spec: TensorSpec | None = None


Entry = TensorEntry | SparseEntry | RefusedEntry


@dataclass(frozen=True)
class Name:
    """A value of torch that is no more than its name: ``Name("dtype", "float32")``.

    Attributes:
        kind: "dtype", "device", "layout", "memory_format", "qscheme" or "storage class".
        value: such as "float32", "cuda:0", "strided".
    """

    kind: str
    value: str


@dataclass(frozen=True)
class Global:
    """A reference to a class or function by its name. It is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Record:
    """What only code could have built: what would have been called, with what. Nothing was.

    Attributes:
        made_by: the class or function.
        arguments: of the call.
        keywords: of the call.
        is_call: a call of any function; else an instance of a class.
        state: what would have been given to ``__setstate__`` or ``__dict__``.
        items: what would have been appended to it.
        pairs: what would have been set in it, as (key, value).
    """

    made_by: Global
    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)
    is_call: bool = False
    state: Any = None
    items: list[Any] = field(default_factory=list)
    pairs: list[tuple[Any, Any]] = field(default_factory=list)


@dataclass
class Archive:
    """A file (or a folder of files that belong together) that has been opened.

    Attributes:
        path: of the file or folder.
        kind: the format: "safetensors", "torch", "torch (before 1.6)", "TorchScript", "numpy", …
        content: the tree; tensors are read from the disk only when they are asked for.
        metadata: the description that luthier wrote into the file; empty in foreign files.
        facts: what else the format says, for a reader's eyes: ("format version", "3").
        globals: every class and function that a pickle in it refers to, and whether it would have
            been called.
        check: compares everything in the file that has a checksum or could contradict itself,
            reading all of it; raises DamagedError.
        data_sha256: the hash of the whole, computed when asked for.
    """

    path: Path
    kind: str
    content: Any
    metadata: Mapping[str, Any] = field(default_factory=dict)
    facts: tuple[tuple[str, str], ...] = ()
    globals: tuple[tuple[Global, bool], ...] = ()
    check: Callable[[], None] = lambda: None
    _sha256: str | None = None

    @property
    def sha256(self) -> str:
        """Of the file's bytes; of a folder "", for it has none."""
        if self._sha256 is None:
            self._sha256 = durable.sha256(self.path) if self.path.is_file() else ""
        return self._sha256


def children(value: Any) -> Iterator[tuple[Any, Any]]:
    """Give what a value of a tree holds, as (key, value): one level."""
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list | tuple):
        yield from enumerate(value)
    elif isinstance(value, set | frozenset):
        yield from ((None, item) for item in value)
    elif isinstance(value, Record):
        yield from (("arguments", value.arguments), ("keywords", value.keywords))
        yield from (("state", value.state), ("items", value.items), ("pairs", value.pairs))


@dataclass(frozen=True, eq=False)
class Place:
    """Where a value is in a tree."""

    parent: Place | None = None
    key: Any = None
    depth: int = 0

    def keys(self) -> tuple[Any, ...]:
        """Return the keys that lead there from the top."""
        found: list[Any] = []
        place: Place | None = self
        while place is not None and place.parent is not None:
            found.append(place.key)
            place = place.parent
        return tuple(reversed(found))


_HOLDS_OTHERS = (dict, list, tuple, set, frozenset, Record)
_END = (None, None)


def walk(content: Any) -> Iterator[tuple[Place, Any]]:
    """Give everything in a tree with its place, in order; what holds others is given once.

    Raises:
        DamagedError: it is nested deeper than ``DEEPEST``.
    """
    seen: set[int] = set()
    # Not lists of what is still to come: these would take more memory than the tree.
    waiting: list[Iterator[tuple[Place, Any]]] = [iter(((Place(), content),))]
    while waiting:
        place, value = next(waiting[-1], _END)
        if place is None:
            waiting.pop()
            continue
        is_holder = isinstance(value, _HOLDS_OTHERS)
        if is_holder and id(value) in seen:
            continue
        yield place, value
        if is_holder:
            seen.add(id(value))
            if place.depth >= DEEPEST:
                raise DamagedError(f"its content is nested deeper than {DEEPEST} levels")
            waiting.append(_below(place, value))


def _below(place: Place, value: Any) -> Iterator[tuple[Place, Any]]:
    return ((Place(place, key, place.depth + 1), item) for key, item in children(value))

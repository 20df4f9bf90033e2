"""A module that was pickled whole → its architecture, as ``print(module)`` would show it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from luthier.errors import DamagedError
from luthier.files.contents import modules
from luthier.files.entries import DEEPEST, Global, Record
from luthier.files.wording import numbered, plain, shown

# Values that constructors have anyway: left out of the text.
_USUAL: Mapping[str, Any] = {
    "affine": True,
    "ceil_mode": False,
    "count_include_pad": True,
    "dilation": 1,
    "elementwise_affine": True,
    "groups": 1,
    "inplace": False,
    "output_padding": 0,
    "padding": 0,
    "padding_mode": "zeros",
    "return_indices": False,
    "track_running_stats": True,
    "transposed": False,
}
_LONGEST_TUPLE = 6
_WIDTH = 300


@dataclass(frozen=True)
class Part:
    """A module of a tree.

    Attributes:
        name: dotted; "" is the whole.
        made_by: its class.
        attributes: what its constructor was given, as far as it is plain: scalars, small tuples.
    """

    name: str
    made_by: str
    attributes: Mapping[str, Any]


def parts(module: Record) -> Iterator[Part]:
    """Give a module and all below it, each once, in the order of ``named_modules()``."""
    waiting: list[tuple[str, Any]] = [("", module)]
    seen: set[int] = set()
    while waiting:
        name, value = waiting.pop()
        if id(value) in seen or not isinstance(value, Record):
            continue
        seen.add(id(value))
        inside = modules.body(value) or {}
        yield Part(name, str(value.made_by), _attributes(inside))
        if inside:
            prefix = f"{name}." if name else ""
            below = [(prefix + child, item) for child, item in modules.children(inside)]
            waiting += reversed(below)


def _attributes(inside: Mapping[Any, Any]) -> dict[str, Any]:
    found = {
        key: str(value) if isinstance(value, Global) else value
        for key, value in inside.items()
        if isinstance(key, str) and not key.startswith("_") and key != "training" and _told(value)
    }
    parameters = inside.get("_parameters", {})
    if "bias" in parameters and parameters["bias"] is None and "bias" not in found:
        found["bias"] = False
    return found


def _told(value: Any) -> bool:
    if isinstance(value, tuple):
        return len(value) <= _LONGEST_TUPLE and all(map(_is_scalar, value))
    return _is_scalar(value) or isinstance(value, Global)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, bool | int | float | str)


def lines(module: Record) -> Iterator[str]:
    """Give the lines of a module's architecture, shaped like its ``repr``.

    Equal children that follow each other are one: ``(0-11): 12 x Block(``.

    Raises:
        DamagedError: the module contains itself, or is nested too deep.
    """
    kinds = _Kinds(module)
    waiting: list[tuple[str, Record | None]] = [("", module)]
    while waiting:
        start, value = waiting.pop()
        if value is None:
            yield start
            continue
        kind = kinds.of(value)
        if not kind.below:
            yield f"{start}{kind.head})"
            continue
        yield start + kind.head + ("" if kind.head.endswith("(") else ",")
        indent = " " * (len(start) - len(start.lstrip(" ")))
        waiting.append((f"{indent})", None))
        waiting += reversed([(f"{indent}  {label}", item) for label, item in kinds.below(value)])


@dataclass(frozen=True)
class _Kind:
    """What a module looks like: the same number means the same text."""

    number: int
    head: str
    below: bool


class _Kinds:
    """Numbers modules by what they look like, from below, each object once."""

    def __init__(self, module: Record) -> None:
        self._numbers: dict[tuple[Any, ...], int] = {}
        self._kinds: dict[int, _Kind] = {}
        # (module, its children are done)
        waiting: list[tuple[Record, bool]] = [(module, False)]
        entered: set[int] = set()
        while waiting:
            value, done = waiting.pop()
            if id(value) in self._kinds:
                continue
            if done:
                self._number(value)
                continue
            if id(value) in entered or len(entered) - len(self._kinds) > DEEPEST:
                raise DamagedError("a module contains itself, or modules are nested too deep")
            entered.add(id(value))
            waiting.append((value, True))
            waiting += [(child, False) for _, child in _modules_in(value)]

    def of(self, value: Record) -> _Kind:
        """Return what a module looks like."""
        return self._kinds[id(value)]

    def _number(self, value: Record) -> None:
        below = tuple((name, self._kinds[id(item)].number) for name, item in _modules_in(value))
        head = _head(value)
        number = self._numbers.setdefault((head, below), len(self._numbers))
        self._kinds[id(value)] = _Kind(number, head, bool(below))

    def below(self, value: Record) -> Iterator[tuple[str, Record]]:
        """Give a module's children, each with the label of its first line."""
        for _, run in groupby(enumerate(_modules_in(value)), key=self._look):
            equal = [named for _, named in run]
            (first, child), (last, _) = equal[0], equal[-1]
            stem, _ = numbered(first) or (first, 0)
            many = f"-{last[len(stem) :]}): {len(equal)} x " if len(equal) > 1 else "): "
            yield f"({plain(first)}{many}", child

    def _look(self, item: tuple[int, tuple[str, Record]]) -> tuple[Any, ...]:
        """Return the same for children that are numbered in turn and look the same."""
        position, (name, child) = item
        parts = numbered(name)
        return (name,) if parts is None else (parts[0], parts[1] - position, self.of(child).number)


def _modules_in(value: Record) -> list[tuple[str, Record]]:
    inside = modules.body(value)
    if inside is None:
        return []
    return [(n, item) for n, item in modules.children(inside) if isinstance(item, Record)]


def _head(value: Record) -> str:
    """Return a module's first line: its class and what its constructor was given."""
    given = _attributes(modules.body(value) or {})
    told = [f"{plain(k, 40)}={shown(v, 60)}" for k, v in given.items() if not _is_usual(k, v)]
    name = plain(value.made_by.name.rpartition(".")[2], 60)
    text = f"{name}({', '.join(told)}"
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"


def _is_usual(key: str, value: Any) -> bool:
    if key not in _USUAL:
        return False
    parts = value if isinstance(value, tuple) else (value,)
    return all(part == _USUAL[key] for part in parts)

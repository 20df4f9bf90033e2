"""Where in a file the weights are: every place, best first. Pure; no torch here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from luthier.errors import DamagedError, UnsupportedFileError, nearest
from luthier.files.contents import modules
from luthier.files.contents.producers import producer
from luthier.files.contents.suspicion import suspicious
from luthier.files.entries import (
    DEEPEST,
    Archive,
    Entry,
    Place,
    Record,
    RefusedEntry,
    SparseEntry,
    TensorEntry,
    children,
)
from luthier.files.limits import Budget
from luthier.files.wording import plain, shown, some

__all__ = ["Candidate", "Contents", "candidates", "contents", "producer", "select", "suspicious"]

# Keys under which programs put weights, those to be preferred first.
WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "net",
    "network",
    "weights",
    "params",
    "student",
    "generator",
    "discriminator",
)
# A key with one of these words in it holds averages over the training, which come after what was
# trained: training goes on from the one, and the other has to be asked for.
AVERAGES = frozenset({"ema", "average", "averaged", "swa", "shadow", "teacher"})
_OF_OPTIMIZERS = ("state", "param_groups")
MODULE = "(module)"
_UNKNOWN = len(WRAPPERS)  # ranks of other keys
_AVERAGE = _UNKNOWN + 1
_MIXED = _UNKNOWN + 2
_MANY = 100  # places that hold a few tensors among other things; those beyond are counted
_NAMES_LIMIT = 32 << 20  # bytes of names that are put together, beside half of the file's size
_NAME_COST = 150  # a str and its place in a dict, beside its characters
_KEYS_SHOWN = 6
# States of torch's generators (CPU, CUDA) and of numpy's.
_GENERATORS = frozenset({("uint8", (5056,)), ("uint8", (16,)), ("uint32", (624,))})


@dataclass(frozen=True)
class Candidate:
    """A place in a file that has named tensors.

    Attributes:
        where: the keys that lead there, joined by "."; "" is the top. A module that was pickled
            whole is "(module)", or "model.(module)" under the key "model".
        entries: its tensors by name.
        note: what a reader should know of it; may be "".
    """

    where: str
    entries: Mapping[str, Entry]
    note: str = ""


@dataclass(frozen=True)
class Contents:
    """What was found in a file.

    Attributes:
        candidates: the places with weights, best first.
        optimizers: the places with the state of an optimizer, as (where, its content).
        whole: the modules that were pickled whole, as (where, module).
        unlisted: more places with a few tensors among other things, of which the first are listed.
        keys: of the top, under which one of these was found.
    """

    candidates: tuple[Candidate, ...]
    optimizers: tuple[tuple[str, Mapping[Any, Any]], ...] = ()
    whole: tuple[tuple[str, Record], ...] = ()
    unlisted: int = 0
    keys: frozenset[Any] = frozenset()


def candidates(archive: Archive) -> tuple[Candidate, ...]:
    """Return every place in a file that has named tensors, best first.

    What was being trained comes before averages of it; known wrappers (``WRAPPERS``, in this
    order) before other keys, places near the top before those below, larger before smaller, and a
    dict that holds a few tensors among other things last. The states of optimizers and random
    generators are no weights.

    Raises:
        DamagedError: the content is nested too deep, or its names need too much memory.
    """
    return contents(archive).candidates


def contents(archive: Archive) -> Contents:
    """Go through a file once, and return all that was found. See ``candidates``."""
    size = archive.path.stat().st_size if archive.path.is_file() else 0
    search = _Search(_NAMES_LIMIT + size // 2)
    search.run(archive.content, _optimizer_parts(archive))
    best = sorted(search.found, key=lambda found: found.order)
    return Contents(
        tuple(found.candidate for found in best),
        tuple(search.optimizers),
        tuple(search.whole),
        search.unlisted,
        frozenset(search.keys),
    )


def select(found: Sequence[Candidate], where: str) -> Candidate:
    """Return the candidate of a name; ``"model"`` does for ``"model.(module)"``.

    Raises:
        UnsupportedFileError: there is none; those that there are are listed.
    """
    for candidate in found:
        if candidate.where in (where, f"{where}.{MODULE}".lstrip(".")):
            return candidate
    names = [candidate.where for candidate in found]
    listed = some([repr(plain(name)) for name in names], len(names)) or "nothing"
    raise UnsupportedFileError(
        f"there are no weights at {where!r}{nearest(where, names)}", cure=f"there is: {listed}"
    )


def is_optimizer(value: Mapping[Any, Any]) -> bool:
    """Tell whether a dict is the state of an optimizer, by its shape."""
    state, groups = map(value.get, _OF_OPTIMIZERS)
    return isinstance(groups, list | tuple) and isinstance(state, dict | list)


@dataclass(eq=False)
class _Table:
    """Tensors that are directly in one place."""

    place: Place
    own: dict[Any, Entry]


@dataclass(eq=False)
class _Group:
    """Tables below a place that holds nothing else, at any depth.

    ``apart``: its names stand for themselves, so they are not joined with those beside it.
    """

    root: Place
    tables: list[_Table]
    apart: bool = False


@dataclass(eq=False)
class _Frame:
    """A value that is being looked through."""

    place: Place
    items: Iterator[tuple[Any, Any]]
    own: dict[Any, Entry] = field(default_factory=dict)
    groups: list[_Group] = field(default_factory=list)
    others: list[Any] = field(default_factory=list)  # the first keys of what is no tensor
    other_count: int = 0

    def other(self, key: Any) -> None:
        self.other_count += 1
        if len(self.others) < _KEYS_SHOWN:
            self.others.append(key)


@dataclass(frozen=True)
class _Found:
    candidate: Candidate
    order: tuple[int, ...]


class _Search:
    """One pass over a tree, each object once, without recursion."""

    def __init__(self, limit: int) -> None:
        self.found: list[_Found] = []
        self.optimizers: list[tuple[str, Mapping[Any, Any]]] = []
        self.whole: list[tuple[str, Record]] = []
        self.unlisted = 0
        self.keys: set[Any] = set()
        self._mixed = 0
        self._places: set[str] = set()
        self._budget = Budget(limit)
        self._seen: set[int] = set()
        self._stack: list[_Frame] = []

    def run(self, content: Any, optimizers: Mapping[str, Mapping[Any, Any]]) -> None:
        """Look through everything but what is known to be of optimizers."""
        for name, state in optimizers.items():
            self._seen.add(id(state))
            self.optimizers.append((name, state))
            self.keys.add(name)
        above = _Frame(Place(), iter(()))
        self._meet(above, Place(), content)
        while self._stack:
            frame = self._stack[-1]
            if not self._advance(frame):
                self._stack.pop()
                self._close(frame, self._stack[-1] if self._stack else above)
        for group in above.groups:
            self._settle(group)
        for entry in above.own.values():
            self._add(Place(), {"tensor": entry}, "one tensor, which has no name")

    def _advance(self, frame: _Frame) -> bool:
        """Go on in a value until something has to be entered; False at its end."""
        for key, value in frame.items:
            if self._meet(frame, Place(frame.place, key, frame.place.depth + 1), value):
                return True
        return False

    def _meet(self, frame: _Frame, place: Place, value: Any) -> bool:
        """Look at a value; True if it is entered."""
        if isinstance(value, TensorEntry | SparseEntry | RefusedEntry):
            frame.own[place.key] = value
            return False
        known = not isinstance(value, dict | list | tuple | Record) or id(value) in self._seen
        if known or self._is_special(place, value):
            frame.other(place.key)
            return False
        if place.depth > DEEPEST:
            raise DamagedError(f"its content is nested deeper than {DEEPEST} levels")
        self._seen.add(id(value))
        self._stack.append(_Frame(place, self._inside(value)))
        return True

    def _is_special(self, place: Place, value: Any) -> bool:
        """Keep a module, which is not looked through, or an optimizer; True if that is all."""
        state = value.state if isinstance(value, Record) else value
        if isinstance(value, Record) and modules.is_module(value):
            where = ".".join(filter(None, (self._path(place), MODULE)))
            self.whole.append((where, value))
            note = f"the module was pickled whole: {plain(str(value.made_by))}"
            self._add(place, modules.state_dict(value, self._budget), note, where=where)
            self._seen.add(id(value))
            return True
        if isinstance(state, dict) and is_optimizer(state):
            self.optimizers.append((self._path(place), state))
            self.keys.update(place.keys()[:1] or _OF_OPTIMIZERS)
            # What is beside these two can be weights: of a model whose state was merged with it.
            self._seen.update(id(state[key]) for key in _OF_OPTIMIZERS)
        return False

    def _inside(self, value: Any) -> Iterator[tuple[Any, Any]]:
        if not isinstance(value, Record):
            yield from children(value)
            return
        yield from enumerate(value.arguments)
        yield from value.keywords.items()
        # An object's attributes are found under their own names, as if it were a dict.
        for part in value.state if isinstance(value.state, tuple) else (value.state,):
            if isinstance(part, dict) and id(part) not in self._seen:
                self._seen.add(id(part))
                yield from part.items()
        yield from enumerate(value.items)
        yield from value.pairs

    def _close(self, frame: _Frame, parent: _Frame) -> None:
        """Hand what was found in a place to the one above, or settle it here."""
        tables = [_Table(frame.place, frame.own)] if frame.own else []
        apart = _has_dots(frame.own) or any(group.apart for group in frame.groups)
        alone = len(tables) + len(frame.groups) == 1
        if frame.other_count or (apart and not alone):
            for group in frame.groups:
                self._settle(group)
            if frame.own:
                self._add_own(frame)
            parent.other(frame.place.key)
            return
        group = frame.groups[0] if alone and frame.groups else _Group(frame.place, tables)
        for below in () if alone else frame.groups:
            group.tables += below.tables
        if group.tables:
            group.apart = apart or _rank(frame.place.key) != _UNKNOWN
            parent.groups.append(group)

    def _settle(self, group: _Group) -> None:
        if len(group.tables) == 1:
            table = group.tables[0]
            self._add(table.place, self._named(table.own))
            return
        entries: dict[str, Entry] = {}
        for table in group.tables:
            self._named(table.own, self._path(table.place, group.root) + ".", entries)
        self._add(group.root, entries, "nested dicts, whose keys are joined by '.'")

    def _add_own(self, frame: _Frame) -> None:
        """Add the tensors of a place that holds other things too."""
        if not any(entry.spec is None or entry.spec.shape for entry in frame.own.values()):
            return  # single numbers: a loss, a count of steps
        count = frame.other_count
        mixed = count > len(frame.own)
        self._mixed += mixed
        if mixed and self._mixed > _MANY:
            self.unlisted += 1
            return
        keys = some([key_text(key) for key in frame.others], count)
        note = f"beside the tensors, and left out: {keys}" if count else ""
        self._add(frame.place, self._named(frame.own), note, _MIXED if mixed else 0)

    def _named(
        self, own: dict[Any, Entry], prefix: str = "", into: dict[str, Entry] | None = None
    ) -> dict[str, Entry]:
        if into is None and all(type(key) is str for key in own):
            return own
        into = {} if into is None else into
        for key, entry in own.items():
            name = prefix.lstrip(".") + key_text(key)
            self._budget.spend(len(name) + _NAME_COST)
            if name in into:  # the keys 1 and "1", say
                name += f"#{len(into)}"
            into[name] = entry
        return into

    def _path(self, place: Place, root: Place | None = None) -> str:
        keys: list[str] = []
        while place is not root and place.parent is not None:
            keys.append(key_text(place.key))
            place = place.parent
        self._budget.spend(sum(map(len, keys)) + len(keys) + _NAME_COST)
        return ".".join(reversed(keys))

    def _add(
        self,
        place: Place,
        entries: Mapping[str, Entry],
        note: str = "",
        rank: int = 0,
        where: str | None = None,
    ) -> None:
        if not entries or all(map(_is_generator_state, entries.values())):
            return
        where = self._path(place) if where is None else where
        if where in self._places:  # a key has a dot in it, and another path reads the same
            where += f"#{len(self._places)}"
        self._places.add(where)
        keys = place.keys()
        self.keys.update(keys[:1])
        rank = max([rank, *map(_rank, keys)])
        if rank == _AVERAGE and "teacher" not in keys:
            note = f"{note}; an average over the training".lstrip("; ")
        size = sum(entry.nbytes for entry in entries.values() if isinstance(entry, TensorEntry))
        order = (rank, place.depth, -size, len(self.found))
        self.found.append(_Found(Candidate(where, entries, note), order))


def _optimizer_parts(archive: Archive) -> dict[str, Mapping[Any, Any]]:
    """Return the parts of a luthier checkpoint that are states of optimizers, or gradients."""
    if archive.kind != "luthier checkpoint":
        return {}
    described = archive.content["state"].get("parts")
    described = described if isinstance(described, dict) else {}
    return {
        part: tensors
        for part, tensors in archive.content.items()
        if part == "gradients" or _has_groups(described.get(part))
    }


def _has_groups(told: Any) -> bool:
    return isinstance(told, dict) and "groups" in told


def key_text(key: Any) -> str:
    """Return a key of a tree as a part of a name."""
    return key if isinstance(key, str) else shown(key)


def _rank(key: Any) -> int:
    """Return the place of a key in the order of preference: the smaller, the better."""
    if not isinstance(key, str):
        return _UNKNOWN
    if key in WRAPPERS:
        return WRAPPERS.index(key)
    return _UNKNOWN if AVERAGES.isdisjoint(re.split(r"[_.\- ]", key[:80].lower())) else _AVERAGE


def _has_dots(own: Mapping[Any, Entry]) -> bool:
    return any(isinstance(key, str) and "." in key for key in own)


def _is_generator_state(entry: Entry) -> bool:
    return entry.spec is not None and (entry.spec.dtype, entry.spec.shape) in _GENERATORS

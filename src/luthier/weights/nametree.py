"""Tensors by dotted names → few rows that show them all. Pure; no torch here.

What lies deeper than there is room for is one row with its sums; blocks that are numbered and look
the same are one row with their count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from luthier.files.entries import Entry, SparseEntry, TensorEntry
from luthier.files.wording import numbered

_DEEPEST = 32  # components of a name that are told apart


@dataclass(frozen=True)
class Row:
    """A tensor, or all below a name.

    Attributes:
        name: dotted; of a group it ends in ``.*``, of equal blocks it has ``(0-11)`` in it.
        entries: of the group; of equal blocks, those of the first.
        times: how many equal blocks there are.
    """

    name: str
    entries: tuple[Entry, ...]
    times: int = 1

    @property
    def is_group(self) -> bool:
        """Whether it stands for all below its name."""
        return self.name.endswith(".*")

    @property
    def count(self) -> int:
        """Its tensors."""
        return len(self.entries) * self.times

    @property
    def nbytes(self) -> int:
        """Of its tensors."""
        return self.times * sum(map(nbytes_of, self.entries))


def nbytes_of(entry: Entry) -> int:
    """Return the bytes of a tensor; of a refused one 0."""
    if isinstance(entry, SparseEntry):
        return sum(part.nbytes for part in entry.parts.values())
    return entry.nbytes if isinstance(entry, TensorEntry) else 0


_Member = tuple[tuple[str, ...], Entry]  # the other components, and the tensor


@dataclass(frozen=True)
class _Group:
    """Tensors that begin with the same components, whose others are told by ``rest``."""

    begin: tuple[str, ...]
    members: tuple[_Member, ...]
    times: int = 1

    def row(self) -> Row:
        (rest, _), *others = self.members
        entries = tuple(entry for _, entry in self.members)
        return Row(".".join((*self.begin, *(("*",) if others else rest))), entries, self.times)


def rows(entries: Mapping[str, Entry], most: int) -> list[Row]:
    """Return rows for all tensors, in their order, as deep as ``most`` rows allow.

    Args:
        entries: by dotted name.
        most: rows; there are more only where the first level has more.
    """
    split = ((tuple(name.split(".", _DEEPEST)), entry) for name, entry in entries.items())
    shown = _opened(_Group((), tuple(split)))
    while any(len(group.members) > 1 for group in shown):
        deeper = [part for group in shown for part in _opened(group)]
        if len(deeper) > most:
            break
        shown = deeper
    return [group.row() for group in shown]


def _opened(group: _Group) -> list[_Group]:
    """Return what is one level below a group, equal blocks together."""
    if len(group.members) < 2:
        return [group]
    # By the next component, if any: others may go on where the name of one tensor ends.
    below: dict[tuple[str, ...], list[_Member]] = {}
    for rest, entry in group.members:
        below.setdefault(rest[:1], []).append((rest[1:], entry))
    found: list[_Group] = []
    for _, run in groupby(enumerate(below.items()), key=_look):
        equal = list(run)
        (_, (first, members)), (_, (last, _)) = equal[0], equal[-1]
        label = first if len(equal) == 1 else (_run(*first, *last),)
        found.append(_Group((*group.begin, *label), tuple(members), group.times * len(equal)))
    return found


def _look(item: tuple[int, tuple[tuple[str, ...], list[_Member]]]) -> tuple[Any, ...]:
    """Return the same for blocks that are numbered one after the other and look the same."""
    position, (first, members) = item
    parts = numbered(*first) if first else None
    if parts is None:
        return first
    look = tuple((rest, entry.spec, type(entry)) for rest, entry in members)
    return (parts[0], parts[1] - position, look)


def _run(first: str, last: str) -> str:
    stem, number = numbered(first) or (first, 0)
    return f"{stem}({number}-{last[len(stem) :]})"

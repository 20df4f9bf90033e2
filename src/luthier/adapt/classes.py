"""Match two lists of class names: which row of a file's head belongs to which class. Pure.

Names are compared whole, in lower case, words apart by a space. A word inside a longer name is
never a match: "bee" is not "bee eater". Where a name fits two rows, or two names fit one, none is
taken.
"""

from __future__ import annotations

import functools
import importlib.resources
import re
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from luthier.errors import DoesNotFitError, nearest

Synonyms = Sequence[Sequence[str]]
_SHOWN, _MOST = 6, 40  # lines of a report


@dataclass(frozen=True)
class ClassRow:
    """What was found for one class.

    Attributes:
        name: the class.
        row: its row in the file's head, from 0; None where there is none or it is ambiguous.
        theirs: the file's name of that row; "" without one.
        how: "same", "plural", "synonym", or one of these with "word of 'bee, honeybee'".
        rivals: what makes it ambiguous: the rows that fit it, or another class that fits its row.
    """

    name: str
    row: int | None = None
    theirs: str = ""
    how: str = ""
    rivals: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.rivals:
            return f"{self.name} fresh, ambiguous: {' and '.join(self.rivals)}"
        if self.row is None:
            return f"{self.name} fresh"
        theirs = "" if repr(self.theirs) in self.how else f" {self.theirs!r}"
        return f"{self.name} ← row {self.row}{theirs} ({self.how})"


@dataclass(frozen=True)
class ClassMatch:
    """Two lists of classes side by side; ``str(match)`` is the report.

    Attributes:
        classes: what was found for each of our classes, in their order.
        theirs: number of classes in the file.
    """

    classes: tuple[ClassRow, ...]
    theirs: int

    @property
    def rows(self) -> tuple[int | None, ...]:
        """For each of our classes the row of the file's head, or None."""
        return tuple(found.row for found in self.classes)

    @property
    def matched(self) -> tuple[str, ...]:
        """Our classes that have a row."""
        return tuple(found.name for found in self.classes if found.row is not None)

    @property
    def ambiguous(self) -> tuple[str, ...]:
        """Our classes that fit several rows, or whose row fits several of them."""
        return tuple(found.name for found in self.classes if found.rivals)

    def __str__(self) -> str:
        total, taken = len(self.classes), len(self.matched)
        first = f"head by name: {taken} of {total} classes take a row of {self.theirs}"
        return "\n  ".join([first, *_told(self.classes)])


def _told(classes: Sequence[ClassRow]) -> Iterator[str]:
    """Yield a line for each class, those that need a look in full; long lists are cut short."""
    same = [one for one in classes if one.how == "same"]
    related = [one for one in classes if one.row is not None and one.how != "same"]
    ambiguous = [one for one in classes if one.rivals]
    fresh = [one for one in classes if one.row is None and not one.rivals]
    for found, what, shown in (
        (same, "of the same name", _SHOWN),
        (related, "by plural, synonym or word", _MOST),
        (ambiguous, "ambiguous", _MOST),
        (fresh, "fresh", _SHOWN),
    ):
        yield from map(str, found[:shown])
        if len(found) > shown:
            yield f"and {len(found) - shown} more {what}"


def match_classes(
    ours: Sequence[str], theirs: Sequence[str], synonyms: Synonyms | None = None
) -> ClassMatch:
    """Find for each of our classes the row of a file's head that has its name.

    Whole names come before the alternatives of a WordNet-like list ("bee, honeybee"), and in each
    the same name before a plural or singular, and that before a synonym; the first of these that
    fits decides. Capitals, underscores, hyphens and spaces make no difference, but where two rows
    differ in them alone the one that is written as ours is meant.

    Args:
        ours: class names in index order.
        theirs: those of the file's head, in the order of its rows.
        synonyms: groups of names that mean the same; those of ``words.toml`` by default.
    """
    table = _Synonyms(_words()["synonyms"]["groups"] if synonyms is None else synonyms)
    rows = _Rows(theirs, table)
    found = [rows.find(name) for name in ours]
    claims = Counter(one.row for one in found if one.row is not None)
    return ClassMatch(
        tuple(
            _contested(one, found) if one.row is not None and claims[one.row] > 1 else one
            for one in found
        ),
        len(theirs),
    )


def _contested(one: ClassRow, found: Sequence[ClassRow]) -> ClassRow:
    others = [repr(o.name) for o in found if o.row == one.row and o is not one]
    rival = f"row {one.row} {one.theirs!r} fits {', '.join(others)} too"
    return replace(one, row=None, theirs="", how="", rivals=(rival,))


def check_some(match: ClassMatch, theirs: Sequence[str], source: str) -> None:
    """Make sure that a head by name takes over something.

    Raises:
        DoesNotFitError: no class has a row; the nearest names are given.
    """
    if match.matched:
        return
    hints = [
        str(one) if one.rivals else one.name + nearest(one.name, theirs)
        for one in match.classes[:_SHOWN]
    ]
    raise DoesNotFitError(
        f"none of the {len(match.classes)} classes has a row by its name among the"
        f" {len(theirs)} of {source}: {'; '.join(hints)}",
        cure="rename the class folders to names that the weights know, or take --head replace",
    )


# --- finding ------------------------------------------------------------------------------------


class _Names:
    """Names with what they belong to, found by themselves and by their plural or singular."""

    def __init__(self, names: Iterable[tuple[str, int]]) -> None:
        self._same: dict[str, set[int]] = {}
        self._plural: dict[str, set[int]] = {}
        for name, index in names:
            self._same.setdefault(name, set()).add(index)
            for plural in plurals(name):
                self._plural.setdefault(plural, set()).add(index)

    def same(self, name: str) -> set[int]:
        return self._same.get(name, set())

    def plural(self, name: str) -> set[int]:
        found = set(self._plural.get(name, ()))
        return found.union(*(self.same(plural) for plural in plurals(name)))

    def either(self, name: str) -> set[int]:
        return self.same(name) | self.plural(name)


class _Synonyms:
    def __init__(self, groups: Synonyms) -> None:
        self._groups = [[fold(name) for name in group] for group in groups]
        self._names = _Names((n, i) for i, group in enumerate(self._groups) for n in group)

    def of(self, name: str) -> set[str]:
        return {other for i in self._names.either(name) for other in self._groups[i]}


class _Rows:
    """The rows of a head, to be found by name."""

    def __init__(self, theirs: Sequence[str], synonyms: _Synonyms) -> None:
        self._theirs, self._synonyms = theirs, synonyms
        self._whole = _Names((fold(name), i) for i, name in enumerate(theirs) if fold(name))
        self._words = _Names((word, i) for i, name in enumerate(theirs) for word in words(name))

    def find(self, name: str) -> ClassRow:
        for names, asked in ((self._whole, [fold(name)]), (self._words, words(name))):
            for how in ("same", "plural", "synonym"):
                fits = {i for word in asked if word for i in self._fitting(names, word, how)}
                if how == "same" and len(fits) > 1:
                    fits = {i for i in fits if self._theirs[i].strip() == name.strip()} or fits
                if fits:
                    return self._row(name, sorted(fits), how, names is self._words)
        return ClassRow(name)

    def _fitting(self, names: _Names, name: str, how: str) -> set[int]:
        if how == "synonym":
            return {i for other in self._synonyms.of(name) for i in names.either(other)}
        return names.same(name) if how == "same" else names.plural(name)

    def _row(self, name: str, fits: Sequence[int], how: str, is_word: bool) -> ClassRow:
        if len(fits) > 1:
            shown = [f"row {i} {self._theirs[i]!r}" for i in fits[:_SHOWN]]
            return ClassRow(name, rivals=tuple(shown))
        theirs = self._theirs[fits[0]]
        if is_word:
            word = f"word of {(theirs if ',' in theirs else name)!r}"
            how = word if how == "same" else f"{how} of a {word}"
        return ClassRow(name, fits[0], theirs, how)


# --- names --------------------------------------------------------------------------------------


def fold(name: str) -> str:
    """Return a name in lower case, its words apart by one space: ``"Fire_Engine"`` is two words."""
    plain = unicodedata.normalize("NFKC", name).casefold()
    return " ".join(re.sub(r"[_\-\s]+", " ", plain).split())


def words(name: str) -> list[str]:
    """Return the alternatives of a WordNet-like name: ``"bee, honeybee"`` has two."""
    return [word for word in map(fold, name.split(",")) if word]


def plurals(name: str) -> set[str]:
    """Return the plurals that a folded name may have; its last word makes them."""
    start, _, last = name.rpartition(" ")
    start += " " if start else ""
    irregular = _words()["plurals"].get(last)
    if irregular is not None:
        return {start + irregular} - {name}
    if len(last) < 3 or not last.isalpha():
        return set()
    if re.search(r"(s|x|z|ch|sh)$", last):
        return {f"{name}es"}
    if re.search(r"[^aeiou]y$", last):
        return {f"{name[:-1]}ies"}
    return {f"{name}s", f"{name}es"} if last.endswith("o") else {f"{name}s"}


@functools.cache
def _words() -> dict[str, Any]:
    text = importlib.resources.files("luthier.adapt").joinpath("words.toml").read_text("utf-8")
    return tomllib.loads(text)

"""What was known of each image when a run began, and how that differs from now. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, Literal

from luthier.data.images import Inspection
from luthier.errors import DamagedError

Side = Literal["train", "val"]

FORMAT = 1
SHOWN = 10
_COLUMNS = ("name", "label", "side", "size", "mtime_ns", "sha256", "problem", "look")
# FAT counts modification times in steps of 2 s; other file systems are finer.
_GRANULARITY_NS = 2_000_000_000


@dataclass(frozen=True)
class Entry:
    """An image as it is listed, and what was found in its file.

    Attributes:
        name: its path below the data's root, with forward slashes.
        label: its class's name.
        side: where it is used; None where it is unreadable.
        found: what its file holds.
    """

    name: str
    label: str
    side: Side | None
    found: Inspection


@dataclass(frozen=True)
class Inventory:
    """Every listed image with its content, its class and its side.

    Attributes:
        taken_ns: when the first file was looked at, in nanoseconds since 1970.
        entries: in the listing's order.
    """

    taken_ns: int
    entries: tuple[Entry, ...]

    @cached_property
    def fingerprint(self) -> str:
        """Hash over the readable images' names, sizes, contents, labels and sides, sorted.

        Two inventories have the same exactly if ``compare`` finds no difference.
        """
        digest = hashlib.blake2b(digest_size=16)
        for row in sorted(_identity(entry) for entry in self.readable):
            digest.update(json.dumps(row).encode())
        return digest.hexdigest()

    @cached_property
    def readable(self) -> tuple[Entry, ...]:
        """The images that are used."""
        return tuple(entry for entry in self.entries if entry.found.problem is None)

    def on(self, side: Side) -> tuple[Entry, ...]:
        """Return the images of a side."""
        return tuple(entry for entry in self.entries if entry.side == side)

    @cached_property
    def unreadable(self) -> tuple[tuple[str, str], ...]:
        """(name, reason) of the images that are left out."""
        found = ((entry.name, entry.found.problem) for entry in self.entries)
        return tuple((name, problem) for name, problem in found if problem is not None)

    def trusted(self, name: str) -> Inspection | None:
        """Return what was found in a file, if it holds for as long as size and mtime are those.

        A file that was written just before it was read may be written again within the same
        tick of the file system's clock, and a file that could not be opened shows by nothing
        that it now can be: neither is trusted.
        """
        found = self._found.get(name)
        if found is None or not found.sha256:
            return None
        return found if found.mtime_ns <= self.taken_ns - _GRANULARITY_NS else None

    def side_of(self, name: str, label: str, sha256: str) -> Side | None:
        """Return the side of an image, or that of its copies in its class; None if it is new."""
        places = ((name, label), (name, None), (sha256, label))
        return next((self._sides[place] for place in places if place in self._sides), None)

    @cached_property
    def _found(self) -> dict[str, Inspection]:
        return {entry.name: entry.found for entry in self.entries}

    @cached_property
    def _sides(self) -> dict[tuple[str, str | None], Side]:
        sides: dict[tuple[str, str | None], Side] = {}
        for name, label, side, found in ((e.name, e.label, e.side, e.found) for e in self.readable):
            if side is not None:
                for place in ((name, label), (name, None), (found.sha256, label)):
                    sides.setdefault(place, side)
        return sides

    def to_json(self) -> str:
        """Return the inventory as ASCII text, one line an image.

        It is a JSON object:

        - ``format``: 1.
        - ``taken_ns``: when the first file was looked at, in nanoseconds since 1970.
        - ``fingerprint``: hash of what is used; see ``fingerprint``.
        - ``columns``: the names of the columns of ``files``, as follows.
        - ``files``: a row for each listed image, in the listing's order: ``name`` (path below the
          data's root), ``label`` (class), ``side`` ("train", "val", or null where unreadable),
          ``size`` in bytes, ``mtime_ns``, ``sha256`` (hexadecimal; empty where the file could not
          be opened, and size and mtime 0 with it), ``problem`` (null, or why it is unreadable),
          ``look`` (what it shows, coarsely; see ``alike.look_of``).
        """
        head = {
            "format": FORMAT,
            "taken_ns": self.taken_ns,
            "fingerprint": self.fingerprint,
            "columns": _COLUMNS,
        }
        rows = ",\n".join(json.dumps(_row(entry)) for entry in self.entries)
        return f'{json.dumps(head)[:-1]}, "files": [\n{rows}\n]}}\n'

    @classmethod
    def from_json(cls, text: str | bytes, source: str) -> Inventory:
        """Read what ``to_json`` wrote.

        Args:
            text: the JSON.
            source: names it in errors, such as the file's path.

        Raises:
            DamagedError: it is no JSON, no inventory, or differs from its fingerprint.
        """
        try:
            return _parse(json.loads(text))
        except (ValueError, RecursionError) as error:
            raise DamagedError(
                f"{source} is damaged or no inventory of images: {error}",
                cure="bring it back from a copy, or start a new run",
            ) from error


def _identity(entry: Entry) -> tuple[str, str, str, int, str]:
    return (entry.name, entry.label, entry.side or "", entry.found.size, entry.found.sha256)


def _row(entry: Entry) -> tuple[Any, ...]:
    found = entry.found
    place = (entry.name, entry.label, entry.side)
    return (*place, found.size, found.mtime_ns, found.sha256, found.problem, found.look)


def _parse(value: Any) -> Inventory:
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise ValueError(f"expected an object with format {FORMAT}")
    columns, rows = value.get("columns"), value.get("files")
    if columns != list(_COLUMNS) or not isinstance(rows, list):
        raise ValueError(f"expected files with the columns {', '.join(_COLUMNS)}")
    if type(value.get("taken_ns")) is not int:
        raise ValueError(f"expected a time, found taken_ns {value.get('taken_ns')!r}")
    inventory = Inventory(value["taken_ns"], tuple(map(_entry, rows)))
    if inventory.fingerprint != value.get("fingerprint"):
        raise ValueError(
            f"expected fingerprint {value.get('fingerprint')!r}, found {inventory.fingerprint!r}"
        )
    return inventory


def _entry(row: Any) -> Entry:
    match row:
        case [
            str(name),
            str(label),
            side,
            int(size),
            int(mtime),
            str(sha256),
            problem,
            str(look),
        ] if (
            type(size) is type(mtime) is int
            and re.fullmatch("[0-9a-f]{64}|", sha256)
            and re.fullmatch("[0-9a-f]{32}|", look)
            and _is_consistent(side, sha256, problem)
        ):
            return Entry(name, label, side, Inspection(size, mtime, sha256, problem, look))
    raise ValueError(f"the row {row!r} describes no image")


def _is_consistent(side: Any, sha256: str, problem: Any) -> bool:
    if problem is None:
        return side in ("train", "val") and sha256 != ""
    return side is None and isinstance(problem, str)


@dataclass(frozen=True)
class Changes:
    """How a data set differs from what it was. True if it differs at all.

    Attributes:
        gone: readable images that are no longer listed.
        unreadable: (name, reason) of images that were readable.
        moved: (name, was, is): images of another class or on another side.
        classes_added: classes without a readable image before.
        classes_removed: classes without a readable image now.
        changed: images whose bytes differ.
        added: readable images that were not listed, or not readable.
    """

    gone: tuple[str, ...] = ()
    unreadable: tuple[tuple[str, str], ...] = ()
    moved: tuple[tuple[str, str, str], ...] = ()
    classes_added: tuple[str, ...] = ()
    classes_removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self != Changes()

    @property
    def correctness(self) -> tuple[str, ...]:
        """A line for each kind of difference after which the run would mean something else."""
        unreadable = [f"{name} ({reason})" for name, reason in self.unreadable]
        moved = [f"{name} ({was} → {now})" for name, was, now in self.moved]
        return (
            *_line("class", "added", self.classes_added),
            *_line("class", "removed", self.classes_removed),
            *_line("image", "gone", self.gone),
            *_line("image", "unreadable now", unreadable),
            *_line("image", "of another class or side", moved),
        )

    @property
    def exactness(self) -> tuple[str, ...]:
        """A line for each kind of difference after which only the bits are others."""
        return (
            *_line("image", "of other content", self.changed),
            *_line("image", "added", self.added),
        )

    @property
    def lines(self) -> tuple[str, ...]:
        """All differences, the graver ones first."""
        return self.correctness + self.exactness


def compare(before: Inventory, now: Inventory) -> Changes:
    """Name the differences between two inventories of a data set.

    Images that were unreadable before, and are so now or gone, are no difference: nothing was
    learned from them. Neither is the time at which a file was written.
    """
    if before.fingerprint == now.fingerprint:
        return Changes()
    old, new = _by_name(before), _by_name(now)
    reasons = dict(now.unreadable)
    both = sorted(old.keys() & new.keys())
    classes = [{entry.label for entry in inventory.readable} for inventory in (before, now)]
    return Changes(
        gone=tuple(sorted(old.keys() - new.keys() - reasons.keys())),
        unreadable=tuple((n, reasons[n]) for n in sorted(old.keys() & reasons.keys() - new.keys())),
        moved=tuple(
            (name, _places(old[name]), _places(new[name]))
            for name in both
            if _places(old[name]) != _places(new[name])
        ),
        classes_added=tuple(sorted(classes[1] - classes[0])),
        classes_removed=tuple(sorted(classes[0] - classes[1])),
        changed=tuple(n for n in both if _contents(old[n]) != _contents(new[n])),
        added=tuple(sorted(new.keys() - old.keys())),
    )


def _by_name(inventory: Inventory) -> dict[str, list[Entry]]:
    ordered = sorted(inventory.readable, key=_identity)  # a table may name a file twice
    return {name: list(entries) for name, entries in groupby(ordered, lambda e: e.name)}


def _places(entries: Iterable[Entry]) -> str:
    return " and ".join(f"{entry.label}, {entry.side}" for entry in entries)


def _contents(entries: Iterable[Entry]) -> set[tuple[int, str]]:
    return {(entry.found.size, entry.found.sha256) for entry in entries}


def _line(noun: str, what: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    count = len(names)
    plural = {"class": "classes", "image": "images"}[noun] if count > 1 else noun
    more = f" and {count - SHOWN} more" if count > SHOWN else ""
    return [f"{count} {plural} {what}: {', '.join(names[:SHOWN])}{more}"]

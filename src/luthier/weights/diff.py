"""``diff``: what differs between the weights of two files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.adapt.names import unwrapped
from luthier.files import tensors
from luthier.files.contents.candidates import Candidate
from luthier.files.entries import Archive, Entry, RefusedEntry, SparseEntry, TensorEntry
from luthier.files.opening import open_archive
from luthier.files.wording import plain, some
from luthier.weights.convert import chosen
from luthier.weights.difference import Difference, difference

_SHOWN = 12


@dataclass(frozen=True)
class Changed:
    """A tensor that is in both files and not the same.

    Attributes:
        name: without what wrappers put in.
        specs: dtype and shape in each, as text.
        difference: None where it cannot be told: other shapes, or a tensor that is not given.
        why: why not.
    """

    name: str
    specs: tuple[str, str]
    difference: Difference | None
    why: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values; what is not finite as text."""
        found: dict[str, Any] = {"name": self.name, "a": self.specs[0], "b": self.specs[1]}
        if self.difference is None:
            return {**found, "why": self.why}
        seen = self.difference
        return {
            **found,
            "elements": seen.elements,
            "differing": seen.differing,
            "max_abs": _json(seen.max_abs),
            "max_rel": _json(seen.max_rel),
            "not_finite": seen.not_finite,
            "moved": _json(seen.part),
        }


@dataclass(frozen=True)
class Layer:
    """How the tensors of one module differ.

    Attributes:
        name: of the module; "" is the top.
        tensors: how many of its tensors differ.
        of: how many it has in both files.
        moved: how far the farthest of them moved, as a part of its own length.
    """

    name: str
    tensors: int
    of: int
    moved: float


@dataclass(frozen=True)
class Comparison:
    """What ``diff`` found; ``str(comparison)`` is the report.

    Attributes:
        paths: of the two files.
        where: the places of the weights in them.
        equal: how many tensors are the same, to the bit.
        changed: those that are not, in the order of the first file.
        only: names that only the first has, and only the second.
        layers: the modules that both have, those whose tensors moved farthest first.
        notes: what was done to the names, and what differs beside the tensors.
    """

    paths: tuple[Path, Path]
    where: tuple[str, str]
    equal: int
    changed: tuple[Changed, ...]
    only: tuple[tuple[str, ...], tuple[str, ...]]
    layers: tuple[Layer, ...]
    notes: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Whether both hold the same tensors, to the bit."""
        return not (self.changed or self.only[0] or self.only[1])

    def __str__(self) -> str:
        return "\n".join(_lines(self))

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "a": str(self.paths[0]),
            "b": str(self.paths[1]),
            "where_a": self.where[0],
            "where_b": self.where[1],
            "same": self.same,
            "equal": self.equal,
            "changed": [changed.as_dict() for changed in self.changed],
            "only_a": list(self.only[0]),
            "only_b": list(self.only[1]),
            "layers": [
                {"name": x.name, "tensors": x.tensors, "of": x.of, "moved": _json(x.moved)}
                for x in self.layers
            ],
            "notes": list(self.notes),
        }


def diff(
    a: str | Path,
    b: str | Path,
    *,
    where_a: str | None = None,
    where_b: str | None = None,
) -> Comparison:
    """Compare the weights of two files, name by name; at most two tensors are in memory.

    Args:
        a: of any format that luthier reads.
        b: likewise.
        where_a: the place of the weights in ``a``; the best one if not given.
        where_b: likewise in ``b``.

    Raises:
        UnsupportedFileError: one is of a kind that luthier does not read, or holds no weights.
        DamagedError: one is truncated or contradicts itself.
    """
    archives = open_archive(Path(a)), open_archive(Path(b))
    places = chosen(archives[0], where_a), chosen(archives[1], where_b)
    one, other = (_bare(place) for place in places)
    both = [name for name in one if name in other]
    found = [(name, _compare(name, one[name], other[name])) for name in both]
    changed = tuple(change for _, change in found if change is not None)
    return Comparison(
        paths=(archives[0].path, archives[1].path),
        where=(places[0].where, places[1].where),
        equal=len(both) - len(changed),
        changed=changed,
        only=(tuple(n for n in one if n not in other), tuple(n for n in other if n not in one)),
        layers=_layers(both, changed),
        notes=tuple(_notes(archives, places, changed)),
    )


def _bare(place: Candidate) -> dict[str, Entry]:
    names = unwrapped(place.entries)
    return {names[name]: entry for name, entry in place.entries.items()}


def _compare(name: str, one: Entry, other: Entry) -> Changed | None:
    """Return what differs, None if nothing does."""
    specs = _spec(one), _spec(other)
    for entry in (one, other):
        if isinstance(entry, RefusedEntry):
            return Changed(name, specs, None, f"it {entry.why}")
    if isinstance(one, SparseEntry) or isinstance(other, SparseEntry):
        return _compare_sparse(name, one, other)
    assert isinstance(one, TensorEntry)  # noqa: S101 - for the type checker
    assert isinstance(other, TensorEntry)  # noqa: S101
    if one.spec.shape != other.spec.shape:
        return Changed(name, specs, None, "the shapes differ")
    seen = difference(tensors.tensor(one, name), tensors.tensor(other, name))
    if seen.differing or one.spec != other.spec:
        return Changed(name, specs, seen)
    return None


def _compare_sparse(name: str, one: Entry, other: Entry) -> Changed | None:
    specs = _spec(one), _spec(other)
    if not (isinstance(one, SparseEntry) and isinstance(other, SparseEntry)):
        return Changed(name, specs, None, "one is sparse")
    if specs != specs[::-1] or one.parts.keys() != other.parts.keys():
        return Changed(name, specs, None, "the shapes or layouts differ")
    for part, entry in one.parts.items():
        if _compare(f"{name} ({part})", entry, other.parts[part]) is not None:
            return Changed(name, specs, None, f"the {part} differ")
    return None


def _spec(entry: Entry) -> str:
    layout = f" {entry.layout}" if isinstance(entry, SparseEntry) else ""
    return f"{entry.spec}{layout}" if entry.spec is not None else "unknown"


def _layers(both: list[str], changed: tuple[Changed, ...]) -> tuple[Layer, ...]:
    counts: dict[str, int] = {}
    for name in both:
        module = name.rpartition(".")[0]
        counts[module] = counts.get(module, 0) + 1
    moved: dict[str, list[float]] = {}
    for change in changed:
        if change.difference is not None and change.difference.differing:
            moved.setdefault(change.name.rpartition(".")[0], []).append(change.difference.part)
    found = []
    for name, count in counts.items():
        parts = moved.get(name, [])
        found.append(Layer(name, len(parts), count, max(parts, default=0.0)))
    return tuple(sorted(found, key=lambda layer: -layer.moved))


def _notes(
    archives: tuple[Archive, Archive],
    places: tuple[Candidate, Candidate],
    changed: tuple[Changed, ...],
) -> Iterator[str]:
    for side, place in zip("ab", places, strict=True):
        count = sum(name != bare for name, bare in unwrapped(place.entries).items())
        if count:
            yield f"{side}: what wrappers put into {count} names is left out of the comparison"
    casts = sum(c.difference is not None and c.specs[0] != c.specs[1] for c in changed)
    if casts:
        yield f"{casts} tensors have another dtype, and are compared by value"
    about = [a.metadata if "luthier" in a.metadata else {} for a in archives]
    other = sorted(k for k in {*about[0], *about[1]} if about[0].get(k) != about[1].get(k))
    if other:
        yield f"the descriptions of the models differ in: {', '.join(map(plain, other))}"


# --- the report -------------------------------------------------------------------------------


def _lines(found: Comparison) -> Iterator[str]:
    yield _summary(found)
    yield from (f"  note: {note}" for note in found.notes)
    for side, path, names in zip("ab", found.paths, found.only, strict=True):
        if names:
            yield f"only in {side}, {path} ({len(names)}): {some(map(plain, names), len(names))}"
    moved = sum(layer.tensors > 0 for layer in found.layers)
    if moved:
        yield f"layers that moved ({moved} of {len(found.layers)}), farthest first:"
        groups = _grouped(found.layers)
        for layer in groups[:_SHOWN]:
            name = plain(layer.name) or "the top"
            yield f"  {name}: {layer.tensors} of {layer.of} tensors, by {_percent(layer.moved)}"
        yield from _more(len(groups))
    if found.changed:
        yield "tensors that differ, most first:"
        for change in sorted(found.changed, key=_order)[:_SHOWN]:
            yield f"  {_line(change)}"
        yield from _more(len(found.changed))


def _grouped(layers: tuple[Layer, ...]) -> list[Layer]:
    """Put layers together by the first components of their names, until they are few."""
    found = [layer for layer in layers if layer.tensors]
    for depth in (4, 3, 2, 1):
        if len(found) <= _SHOWN:
            break
        groups: dict[str, Layer] = {}
        for layer in layers:
            name = ".".join(layer.name.split(".")[:depth])
            known = groups.get(name, Layer(name, 0, 0, 0.0))
            groups[name] = Layer(
                name,
                known.tensors + layer.tensors,
                known.of + layer.of,
                max(known.moved, layer.moved),
            )
        moved = [layer for layer in groups.values() if layer.tensors]
        found = sorted(moved, key=lambda layer: -layer.moved)
    return found


def _more(count: int) -> Iterator[str]:
    if count > _SHOWN:
        yield f"  and {count - _SHOWN} more; all are in --json"


def _order(change: Changed) -> float:
    return -math.inf if change.difference is None else -change.difference.part


def _summary(found: Comparison) -> str:
    places = [
        f"{path}{f' ({where})' if where else ''}"
        for path, where in zip(found.paths, found.where, strict=True)
    ]
    if found.same:
        return f"equal: {found.equal} tensors, to the bit, in {places[0]} and {places[1]}"
    parts = [f"{found.equal} tensors are equal to the bit", f"{len(found.changed)} differ"]
    parts += [
        f"{len(names)} only in {side}"
        for side, names in zip("ab", found.only, strict=True)
        if names
    ]
    compared = [change.difference.max_abs for change in found.changed if change.difference]
    most = f"; the largest difference is {max(compared):.3g}" if compared else ""
    return f"{', '.join(parts)}{most}\n  a: {places[0]}\n  b: {places[1]}"


def _line(change: Changed) -> str:
    one, other = change.specs
    specs = one if one == other else f"{one} → {other}"
    name, seen = plain(change.name), change.difference
    if seen is None:
        return f"{name} {specs}: {change.why}"
    if not seen.differing:
        return f"{name} {specs}: the values are equal"
    line = (
        f"{name} {specs}: {seen.differing} of {seen.elements} elements,"
        f" by at most {seen.max_abs:.3g} ({_percent(seen.max_rel)} of the number)"
    )
    return f"{line}; {seen.not_finite} of them not finite" if seen.not_finite else line


def _percent(part: float) -> str:
    return f"{100 * part:.3g} %" if math.isfinite(part) else "all of it"


def _json(number: float) -> float | str:
    return number if math.isfinite(number) else str(number)

"""Names of the same tensors that differ by what was put in front of them. Pure; no torch here.

Wrappers (``module``, ``_orig_mod``) are taken out anywhere in a name. Leading components are taken
off the names of the file, of the model or of both: which, is decided by how many tensors then have
both the same name and the same shape.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from luthier.adapt.plan import Assignment
from luthier.values import TensorSpec

# What DataParallel and DDP, torch.compile, FSDP, activation checkpointing and Fabric put in.
WRAPPERS = frozenset(
    {
        "module",
        "_orig_mod",
        "_fsdp_wrapped_module",
        "_checkpoint_wrapped_module",
        "_forward_module",
        "_original_module",
    }
)
Specs = Mapping[str, TensorSpec]
Parts = tuple[str, ...]
Change = tuple[Parts, Parts]  # off the file's names, off the model's
_SAME: Change = ((), ())
_DEEPEST = 64  # components; a name of more is taken whole
_MANY = 200_000  # pairs of tensors that look alike; of more a sample says which changes to count
_SAMPLE = 64


@dataclass(frozen=True)
class Proposal:
    """Where tensors of the model could come from, by one way of looking for it.

    Attributes:
        links: by the model's names; shapes may still differ.
        notes: the evidence, a line each.
        doubts: why more was not proposed.
    """

    links: Mapping[str, Assignment] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    @property
    def used(self) -> frozenset[str]:
        """The file's names in it."""
        return frozenset(source for link in self.links.values() for source in link.sources)


def unwrapped(names: Iterable[str]) -> dict[str, str]:
    """Return each name without the components that wrappers put in.

    Nothing is taken out where two names would become one.
    """
    names = list(names)
    bare = {}
    for name in names:
        *before, leaf = name.split(".")
        bare[name] = ".".join([*(part for part in before if part not in WRAPPERS), leaf])
    return bare if len(set(bare.values())) == len(names) else {name: name for name in names}


def by_name(model: Specs, file: Specs, only: Sequence[Change] | None = None) -> Proposal:
    """Pair the tensors of a model and a file by their names, wrappers and prefixes aside.

    The change of prefixes under which most (name, shape) pairs agree is taken; two that agree on
    as many, and cannot both be true, are refused, unless one of them changes nothing. What is left
    over is looked at again, for as long as that finds whole modules.

    Args:
        model: the model's tensors, in its order.
        file: the file's.
        only: changes of prefixes that are known, as (off the file's names, on to the model's);
            others are not looked for.
    """
    if only is None and _are_alike(model, file):
        return Proposal({name: Assignment(name, (name,)) for name in model})
    ours, theirs = _Side(model), _Side(file)
    search = _Search(ours, theirs)
    search.run(only)
    links = {
        ours.full[o]: Assignment(ours.full[o], (theirs.full[t],), why=why)
        for o, (t, why) in search.found.items()
    }
    notes = list(search.notes)
    for side, where in ((theirs, "the file's"), (ours, "the model's")):
        if side.wrappers:
            notes.insert(0, f"{', '.join(side.wrappers)} taken out of {where} names")
    return Proposal(
        {name: links[name] for name in model if name in links}, tuple(notes), search.doubts
    )


def _are_alike(model: Specs, file: Specs) -> bool:
    return model.keys() == file.keys() and all(
        spec.shape == file[name].shape for name, spec in model.items()
    )


class _Side:
    """The names of one side without wrappers, in components, and how to get back."""

    def __init__(self, specs: Specs) -> None:
        bare = unwrapped(specs)
        self.full = {split(short): name for name, short in bare.items()}
        self.shapes = {parts: specs[name].shape for parts, name in self.full.items()}
        taken = {p for n, b in bare.items() if n != b for p in n.split(".")[:-1] if p in WRAPPERS}
        self.wrappers = sorted(taken)


def split(name: str) -> Parts:
    """Return the components of a name."""
    return tuple(name.split(".")) if name.count(".") < _DEEPEST else (name,)


class _Index:
    """Names by each of their beginnings."""

    def __init__(self, names: Iterable[Parts]) -> None:
        self.names = list(names)
        self._under: dict[Parts, list[Parts]] = defaultdict(list)
        for name in self.names:
            for length in range(len(name)):
                self._under[name[:length]].append(name)

    def under(self, prefix: Parts) -> list[Parts]:
        return self._under.get(prefix, [])


_Free = tuple[_Index, _Index]  # of the file's names and the model's that are not paired yet


class _Search:
    """Changes of prefixes, one after the other, until nothing more is found."""

    def __init__(self, ours: _Side, theirs: _Side) -> None:
        self._ours, self._theirs = ours, theirs
        self._free_ours, self._free_theirs = dict.fromkeys(ours.full), dict.fromkeys(theirs.full)
        self._changes: list[Change] = []
        self.found: dict[Parts, tuple[Parts, str]] = {}
        self.notes: list[str] = []
        self.doubts: tuple[str, ...] = ()

    def run(self, only: Sequence[Change] | None) -> None:
        for change in only or ():
            self._take(change)
        while only is None and self._free_ours and self._free_theirs:
            free = _Index(self._free_theirs), _Index(self._free_ours)
            best = self._best(free, _votes(self._theirs, self._ours, free))
            if best is None:
                break
            self._take(best)
        # Names that agree under what was found, whatever their shapes: an error can name them.
        for change in [_SAME, *self._changes, *map(_nested, self._changes)]:
            self._take(change, quiet=True)

    def _best(self, free: _Free, votes: Counter[Change]) -> Change | None:
        stronger: list[Change] = []
        for count in sorted(set(votes.values()), reverse=True):
            changes = [change for change, n in votes.items() if n == count]
            sound = [change for change in changes if self._is_sound(free, change, count)]
            best = [change for change in sound if not self._is_contested(change, stronger)]
            if _SAME in best:
                return _SAME
            rivals = [other for other in best[1:] if _collide(free, best[0], other)]
            if rivals:
                ways = " and ".join(_said(change) for change in (best[0], rivals[0]))
                how = "; where= with the beginning of the names chooses" if best[0][0] else ""
                self.doubts = (f"names agree equally well ({count} tensors) by {ways}{how}",)
                return None
            if best:
                return best[0]
            stronger += changes
        return None

    def _is_contested(self, change: Change, stronger: Sequence[Change]) -> bool:
        """Tell whether more tensors agree by another change that pairs one of these otherwise.

        Such as conv1 with conv2, where a prefix before both pairs each with its own name.
        """
        pairs = [
            (name, ours)
            for name in self._free_theirs
            if (ours := _moved(name, change)) in self._free_ours
        ]
        for other in stronger:
            back = other[::-1]
            for name, ours in pairs:
                if self._is_free(name, there := _moved(name, other)) and there != ours:
                    return True
                if self._is_free(here := _moved(ours, back), ours) and here != name:
                    return True
        return False

    def _is_free(self, name: Parts | None, ours: Parts | None) -> bool:
        """Tell whether both are unpaired, of the same shape."""
        known = name in self._free_theirs and ours in self._free_ours
        return known and self._theirs.shapes[name] == self._ours.shapes[ours]  # type: ignore[index]

    def _is_sound(self, free: _Free, change: Change, count: int) -> bool:
        if change == _SAME:
            return True
        off, on = change
        theirs, ours = free[0].under(off), free[1].under(on)
        # One layer looks like another: a prefix is told by several, or by all that there is.
        several = count > 1 and _layers(off, theirs, on, ours) > 1
        if not self._changes:
            all_there_is = min(len(index.names) for index in free)
            if not several:
                return 2 * count >= all_there_is
            return 2 * count >= min(len(theirs), len(ours)) and 20 * count >= all_there_is
        if _is_another_block(change):
            return False
        # Later on only what fits to the last tensor, and goes with what was found before.
        others = [other for other in self._changes if other != _SAME]
        related = not off or not on or any(_is_related(change, other) for other in others)
        return (related or several) and count == len(theirs) == len(ours)

    def _take(self, change: Change, quiet: bool = False) -> None:
        pairs = [
            (ours, name)
            for name in self._free_theirs
            if (ours := _moved(name, change)) is not None and ours in self._free_ours
        ]
        why = "same name" if change == _SAME else _said(change)
        for ours, theirs in pairs:
            self.found[ours] = (theirs, why)
            del self._free_ours[ours], self._free_theirs[theirs]
        if quiet or not pairs:
            return
        self._changes.append(change)
        if change != _SAME:
            self.notes.append(f"{why}: {len(pairs)} tensors")


def _votes(theirs: _Side, ours: _Side, free: _Free) -> Counter[Change]:
    """Count for each change of prefixes the tensors whose names and shapes then agree."""
    alike: dict[tuple[str, tuple[int, ...]], list[Parts]] = defaultdict(list)
    for name in free[1].names:
        alike[name[-1], ours.shapes[name]].append(name)
    partners = [(name, alike.get((name[-1], theirs.shapes[name]), ())) for name in free[0].names]
    if sum(len(others) for _, others in partners) > _MANY:
        return _sampled_votes(theirs, ours, free)
    return Counter(_difference(name, other) for name, others in partners for other in others)


def _sampled_votes(theirs: _Side, ours: _Side, free: _Free) -> Counter[Change]:
    """Count as ``_votes`` does, only for changes under which some names agree at greatest length.

    Where thousands of tensors look alike, as in mixtures of experts, there are too many pairs.
    """
    ends: dict[Parts, list[Parts]] = defaultdict(list)
    for name in free[0].names:
        for start in range(len(name)):
            if len(ends[name[start:]]) < _SAMPLE:
                ends[name[start:]].append(name)
    changes = {_SAME}
    for name in free[1].names[:: max(1, len(free[1].names) // _SAMPLE)]:
        longest = next((name[i:] for i in range(len(name)) if name[i:] in ends), ())
        changes.update(_difference(other, name) for other in ends.get(longest, ()))
    votes: Counter[Change] = Counter()
    for off, on in changes:
        for name in free[0].under(off):
            other = on + name[len(off) :]
            if ours.shapes.get(other) == theirs.shapes[name]:
                votes[off, on] += 1
    return votes


def _layers(off: Parts, theirs: Iterable[Parts], on: Parts, ours: Iterable[Parts]) -> int:
    """Return how many layers have the same name on both sides."""
    rests = {name[len(off) :] for name in theirs} & {name[len(on) :] for name in ours}
    return len({rest[:-1] for rest in rests})


def _collide(free: _Free, one: Change, other: Change) -> bool:
    return any(
        not set(index.under(a)).isdisjoint(index.under(b))
        for index, a, b in zip(free, one, other, strict=True)
    )


def _moved(name: Parts, change: Change) -> Parts | None:
    """Return a name of the file under a change; None where it does not begin so."""
    off, on = change
    return on + name[len(off) :] if name[: len(off)] == off else None


def _difference(theirs: Parts, ours: Parts) -> Change:
    """Return what stands before the longest common end of two names."""
    same = 0
    for one, other in zip(reversed(theirs), reversed(ours), strict=False):
        if one != other:
            break
        same += 1
    return theirs[: len(theirs) - same], ours[: len(ours) - same]


def _is_another_block(change: Change) -> bool:
    """Tell whether a numbered block would become another one of the same family."""
    (*_, of, off), (*_, to, on) = (("", "", *parts) for parts in change)
    return of == to and off != on and off.isdecimal() and on.isdecimal()


def _is_related(one: Change, other: Change) -> bool:
    return all(a[: len(b)] == b or b[: len(a)] == a for a, b in zip(one, other, strict=True))


def _nested(change: Change) -> Change:
    """Return the change without the last component of both: a head beside the trunk."""
    return change[0][:-1], change[1][:-1]


def _said(change: Change) -> str:
    off, on = (".".join(parts) + "." for parts in change)
    if not change[0]:
        return f"prefix {on} put before the file's names"
    if not change[1]:
        return f"prefix {off} taken off the file's names"
    return f"prefix {off} of the file's names replaced by {on}"

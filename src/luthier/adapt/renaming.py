"""Pair the tensors of a model and a file by a rule set, prefixes aside. Pure."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable, Iterator

from luthier.adapt.adjust import shaped
from luthier.adapt.names import Parts, Proposal, Specs, by_name, unwrapped
from luthier.adapt.plan import Assignment
from luthier.adapt.rules import Joined, Link, RuleSet
from luthier.adapt.transforms import Concat, Copy, Part, Reshape, Transform

_SAMPLE = 64  # names that a prefix is looked for in
_DEEPEST = 12  # components of a prefix


def by_rules(
    model: Specs, file: Specs, rules: Iterable[RuleSet], head: Collection[str] = ()
) -> Iterator[Proposal]:
    """Give what each rule set proposes, in either direction; one that claims too much, as a doubt.

    Args:
        model: the model's tensors, in its order.
        file: the file's.
        rules: to be tried.
        head: tensors of the model whose shape may differ.
    """
    for rule_set in rules:
        for side in (0, 1):
            found = _by_rule_set(model, file, rule_set, side, head)
            if found is not None:
                yield found


def _by_rule_set(
    model: Specs, file: Specs, rules: RuleSet, side: int, head: Collection[str]
) -> Proposal | None:
    """Return what rules propose if the file has the names of ``side``."""
    attempt = _Attempt(model, file, rules, side)
    if not attempt.links:
        return None
    title = f"rules {rules.title}"
    doubt = attempt.overclaimed(head)
    if doubt:
        return Proposal(doubts=(f"{title}: {doubt}",))
    links = attempt.links
    used = {source for link in links.values() for source in link.sources}
    rest = by_name(
        {name: spec for name, spec in model.items() if name not in links},
        {name: spec for name, spec in file.items() if name not in used},
        only=[attempt.prefixes],
    )
    both = {**links, **rest.links}
    note = f"{title} ({rules.names[side]} → {rules.names[1 - side]}): {len(links)} tensors"
    return Proposal(
        {name: both[name] for name in model if name in both}, (note, *rest.notes), rest.doubts
    )


class _Attempt:
    """A rule set tried on a model and a file.

    Attributes:
        links: what it pairs.
        prefixes: what stands before its names in the file and in the model.
    """

    def __init__(self, model: Specs, file: Specs, rules: RuleSet, side: int) -> None:
        self._model, self._file, self._side = model, file, side
        self._theirs, before = _short(file, rules, side)
        self._ours, ours_before = _short(model, rules, 1 - side)
        self.prefixes = before, ours_before
        sides = (self._theirs, self._ours) if side == 0 else (self._ours, self._theirs)
        self._joined = rules.join(*sides) if all(sides) else Joined((), ((), ()))
        self._optional: set[str] = set()
        self.links = dict(self._assignments())
        if self._optional >= self.links.keys():  # a head alone is no evidence
            self.links = {}

    def _assignments(self) -> Iterator[tuple[str, Assignment]]:
        for link in self._joined.links:
            for short, sources, transform in _directed(link, self._side):
                target, names = self._ours[short], tuple(self._theirs[s] for s in sources)
                shape = self._model[target].shape
                reshaped = link.reshape and shape != self._file[names[0]].shape
                how = Reshape(shape) if reshaped else transform
                if link.optional:
                    self._optional.add(target)
                yield target, Assignment(target, names, how, "rule")

    def overclaimed(self, head: Collection[str]) -> str:
        """Return what of the file the rules claim and cannot place; "" if there is none."""
        alone = self._joined.alone[self._side]
        if alone:
            more = f" and {len(alone) - 1} more" if len(alone) > 1 else ""
            return f"{self._theirs[alone[0]]}{more} would have no place in the model"
        for name, link in self.links.items():
            free = name in head or name in self._optional
            if not free and shaped(link, self._model, self._file) is None:
                found = ", ".join(str(self._file[source]) for source in link.sources)
                target = f"{name} {self._model[name]}"
                return f"{', '.join(link.sources)} {found} would go to {target}"
        return ""


def _directed(link: Link, side: int) -> list[tuple[str, tuple[str, ...], Transform]]:
    """Return (target, sources, transform) of a link whose ``side`` is the file's."""
    count = len(link.many)
    if side == 0:
        return [(link.one, link.many, Concat() if count > 1 else Copy())]
    if count == 1:
        return [(link.many[0], (link.one,), Copy())]
    return [(name, (link.one,), Part(i, count)) for i, name in enumerate(link.many)]


def _short(specs: Specs, rules: RuleSet, side: int) -> tuple[dict[str, str], Parts]:
    """Return the names without what stands before those of a rule set, short → full, and that.

    A name that is not under the whole prefix may be under the beginning of it: ``model.fc`` beside
    ``model.trunk.conv``.
    """
    bare = unwrapped(specs)
    prefix = _prefix(list(bare.values()), rules, side)
    if prefix is None:
        return {}, ()
    found: dict[str, str] = {}
    for full, name in bare.items():
        before = prefix
        while before and not name.startswith(before):
            before = before[:-1].rpartition(".")[0] + "." if "." in before[:-1] else ""
        found.setdefault(name.removeprefix(before), full)
    return found, tuple(prefix.split(".")[:-1])


def _prefix(names: list[str], rules: RuleSet, side: int) -> str | None:
    """Return what to take off so that most names are the rules'; None where none are."""
    counts: Counter[str] = Counter()
    for name in names[:: max(1, len(names) // _SAMPLE)]:
        parts = name.split(".", _DEEPEST)
        for cut in range(len(parts)):
            if rules.fits(side, ".".join(parts[cut:])):
                counts["".join(f"{part}." for part in parts[:cut])] += 1
    if not counts:
        return None
    most = max(counts.values())
    return min((prefix for prefix, count in counts.items() if count == most), key=len)


def same_links(one: Proposal, other: Proposal) -> bool:
    """Tell whether two proposals put the same tensors in the same places."""
    return _plain(one) == _plain(other)


def _plain(proposal: Proposal) -> dict[str, Assignment]:
    return {n: dataclasses.replace(link, why="") for n, link in proposal.links.items()}

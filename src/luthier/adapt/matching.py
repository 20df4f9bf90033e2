"""Decide which tensor of a file goes where in a model. Pure: nothing is changed here.

First by name, wrappers and prefixes aside; then by naming schemes (``rules``); then by order and
shape. A later way is only tried where the ones before leave something out, and only taken where
it covers more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from luthier.adapt.adjust import shaped, why_not_cast
from luthier.adapt.alignment import COUNTS, by_order
from luthier.adapt.leftover import inside
from luthier.adapt.names import Proposal, Specs, by_name
from luthier.adapt.plan import Assignment, HeadFit, LoadPlan
from luthier.adapt.renaming import by_rules, same_links
from luthier.adapt.rules import RuleSet, built_in
from luthier.adapt.transforms import Copy, Rows, fits
from luthier.values import TensorSpec


@dataclass(frozen=True)
class How:
    """What may be tried.

    Attributes:
        rules: naming schemes that come before luthier's own.
        built_in: use luthier's own.
        order: pair by order and shape what names and rules leave out.
        adjust: fit input channels and position embeddings of another size.
    """

    rules: tuple[RuleSet, ...] = ()
    built_in: bool = True
    order: bool = True
    adjust: bool = True


@dataclass(frozen=True)
class Sides:
    """What is to be matched.

    Attributes:
        model: the model's tensors, in the order of its ``state_dict``.
        file: the file's tensors, in its order.
        head: what becomes of the model's head.
        tied: groups of the model's names that share memory.
        refused: the file's tensors that cannot be read, and why.
    """

    model: Specs
    file: Specs
    head: HeadFit = field(default_factory=HeadFit)
    tied: Sequence[Sequence[str]] = ()
    refused: Mapping[str, str] = field(default_factory=dict)


def match(
    model: Mapping[str, TensorSpec],
    file: Mapping[str, TensorSpec],
    head: HeadFit | Collection[str] = (),
    how: How | None = None,
) -> LoadPlan:
    """Match the tensors of a file to those of a model.

    Args:
        model: the model's tensors, in the order of its ``state_dict``.
        file: the file's tensors, in its order.
        head: what becomes of the head; or model tensors that keep their initial value.
        how: what may be tried besides names; everything by default.
    """
    return plan(Sides(model, file, as_head(head)), how or How())


def as_head(head: HeadFit | Collection[str]) -> HeadFit:
    """Return what becomes of the head, from names that keep their initial value too."""
    return (
        head if isinstance(head, HeadFit) else HeadFit(tuple(head), "replace" if head else "keep")
    )


def plan(sides: Sides, how: How) -> LoadPlan:
    """Return the plan that covers most; of several that cover as much, the plainest."""
    if sides.head.mode == "keep" and not sides.refused and sides.model == sides.file:
        return LoadPlan(tuple(Assignment(name, (name,)) for name in sides.model))
    head = sides.head.tensors if sides.head.mode != "keep" else ()
    first = by_name(sides.model, sides.file)
    best, doubts = _planned(sides, first, how), list(first.doubts)
    for rules in (how.rules, built_in() if how.built_in else ()):
        if best.coverage < 1.0 and rules:
            found = list(by_rules(sides.model, sides.file, rules, head))
            better, why_not = _best_of(sides, found, how)
            doubts += why_not
            best = better if better is not None and better.coverage > best.coverage else best
    if best.coverage < 1.0 and how.order:
        ordered = _with_order(sides, best)
        doubts += ordered.doubts
        other = _planned(sides, ordered, how)
        best = other if other.coverage > best.coverage else best
    if best.coverage < 1.0:
        best = dataclasses.replace(best, doubts=tuple(dict.fromkeys(doubts)))
    return best


def _best_of(
    sides: Sides, found: Sequence[Proposal], how: How
) -> tuple[LoadPlan | None, list[str]]:
    """Return the plan of the rules that cover most, and why others were not taken."""
    doubts = [doubt for proposal in found for doubt in proposal.doubts]
    planned = [(p, _planned(sides, p, how)) for p in found if p.links]
    if not planned:
        return None, doubts
    most = max(one.coverage for _, one in planned)
    best = [(proposal, one) for proposal, one in planned if one.coverage == most]
    rivals = [p for p, _ in best[1:] if not same_links(p, best[0][0])]
    if rivals:
        ways = f"{best[0][0].notes[0]} and {rivals[0].notes[0]}"
        return None, [*doubts, f"two naming schemes fit equally well: {ways}"]
    return best[0][1], doubts


def _with_order(sides: Sides, best: LoadPlan) -> Proposal:
    """Add what order and shape say to a plan's pairs."""
    head = sides.head.tensors if sides.head.mode == "replace" else ()
    links = {a.target: a for a in best.assignments}
    notes = tuple(note for note in best.notes if note != sides.head.note)
    known = {n: a.sources[0] for n, a in links.items() if a.transform == Copy()}
    used = {s for n, a in links.items() if n not in known for s in a.sources}
    skip = {*head, *(n for n in links if n not in known), *(n for n, _ in best.tied)}
    rest = {name: spec for name, spec in sides.file.items() if name not in used}
    found = by_order(sides.model, rest, known, skip)
    return Proposal({**links, **found.links}, (*notes, *found.notes), found.doubts)


def _planned(sides: Sides, proposal: Proposal, how: How) -> LoadPlan:
    """Say of every tensor of both sides what becomes of it."""
    fates = _Fates(sides, proposal.links, how)
    for name in sides.model:
        fates.decide(name)
    fates.tie()
    linked = {s for link in proposal.links.values() for s in link.sources}
    unexpected = tuple(name for name in sides.file if name not in linked)
    used = {s for one in fates.assignments.values() for s in one.sources}
    return LoadPlan(
        assignments=tuple(fates.assignments.values()),
        tied=tuple(fates.tied),
        kept=tuple(fates.kept),
        missing=tuple(fates.missing),
        misshapen=tuple(fates.misshapen),
        refused=tuple(fates.refused),
        unexpected=unexpected,
        inside=inside(unexpected, used, sides.file),
        dropped=tuple(fates.dropped),
        notes=(*proposal.notes, sides.head.note) if sides.head.note else proposal.notes,
    )


class _Fates:
    """What becomes of each tensor of a model."""

    def __init__(self, sides: Sides, links: Mapping[str, Assignment], how: How) -> None:
        self._sides, self._links, self._how = sides, links, how
        self.assignments: dict[str, Assignment] = {}
        self.tied: list[tuple[str, str]] = []
        self.kept: list[str] = []
        self.missing: list[str] = []
        self.misshapen: list[tuple[str, str, str]] = []
        self.refused: list[tuple[str, str]] = []
        self.dropped: list[str] = []

    def decide(self, name: str) -> None:
        head = self._sides.head
        link = self._links.get(name)
        if head.mode == "replace" and name in head.tensors:
            self.kept.append(name)
            self.dropped += link.sources if link else ()
        elif link is None:
            (self.kept if name.endswith(COUNTS) else self.missing).append(name)
        elif why := self._why_not(link):
            self.refused.append((name, why))
        else:
            self._place(link)

    def _why_not(self, link: Assignment) -> str:
        target = self._sides.model[link.target].dtype
        for name in link.sources:
            if name in self._sides.refused:
                return f"{name} {self._sides.refused[name]}"
            dtype = self._sides.file[name].dtype
            if dtype != target and (why := why_not_cast(dtype, target)):
                return why
        return self._why_no_rows(link)

    def _why_no_rows(self, link: Assignment) -> str:
        head, source = self._sides.head, link.sources[0]
        if head.mode != "rows" or head.of is None or link.target not in head.tensors:
            return ""
        rows = self._sides.file[source].shape[:1]
        if rows == (head.of,):
            return ""
        return (
            f"{source} has {rows[0] if rows else 'no'} rows, and {head.of} class names are known"
            " for it: which row is whose is not"
        )

    def _place(self, link: Assignment) -> None:
        model, file, head = self._sides.model, self._sides.file, self._sides.head
        target, sources = model[link.target], [file[name] for name in link.sources]
        if head.mode == "rows" and link.target in head.tensors:
            rows = dataclasses.replace(link, transform=Rows(head.rows))
            placed = rows if fits(rows.transform, sources, target) else None
        else:
            placed = shaped(link, model, file, self._how.adjust)
        if placed is None:
            found = ", ".join(map(str, sources))
            self.misshapen.append((link.target, found, str(target)))
            return
        dtype = sources[0].dtype
        if dtype != target.dtype:
            placed = dataclasses.replace(placed, cast=(dtype, target.dtype))
        self.assignments[link.target] = placed

    def tie(self) -> None:
        """Count as loaded what shares the memory of something that is."""
        partner = {
            name: next((n for n in group if n in self.assignments), None)
            for group in self._sides.tied
            for name in group
        }
        found = [(name, other) for name in self.missing if (other := partner.get(name))]
        self.tied += found
        lacking = dict(found)
        self.missing = [name for name in self.missing if name not in lacking]

"""A plan as lines of text, and as plain JSON values."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from luthier.adapt.transforms import Copy
from luthier.errors import nearest
from luthier.files.wording import plain

if TYPE_CHECKING:
    from luthier.adapt.plan import Assignment, LoadPlan

_COUNTS = ("num_batches_tracked", "n_averaged")
_SHOWN = 6
_LONGEST = 500  # characters
_COMPARED = 5_000  # names that one is looked for among


def report(plan: LoadPlan) -> str:
    """Return what a plan does and by what evidence, then what it does not and why."""
    return "\n".join([_first(plan), *(f"  {line}" for line in _lines(plan))])


def _first(plan: LoadPlan) -> str:
    done = len(plan.assignments) + len(plan.tied)
    new = [name for name in plan.kept if not name.endswith(_COUNTS)]
    told = f", {len(new)} new: {some(new)}" if new else ""
    return f"{done} of {plan.wanted} tensors loaded{told}"


def _lines(plan: LoadPlan) -> Iterator[str]:
    if plan.where or plan.others:
        yield f"place in the file: {plain(plan.where) or 'the top'}{_others(plan)}"
    for note in plan.notes:
        yield from (plain(line, _LONGEST) for line in note.split("\n"))
    yield from _table(plan)
    yield from _done(plan)
    yield from _not_done(plan)


def _done(plan: LoadPlan) -> Iterator[str]:
    if plan.tied:
        yield f"share memory with what is loaded: {some([f'{n} = {o}' for n, o in plan.tied])}"
    counts = sum(name.endswith(_COUNTS) for name in plan.kept)
    if counts:
        yield f"counts that the file lacks, left as they are: {counts}"
    for kinds in dict.fromkeys(a.cast for a in plan.assignments if a.cast):
        names = [a.target for a in plan.assignments if a.cast == kinds]
        yield f"cast {kinds[0]} → {kinds[1]}: {some(names)}"


def _not_done(plan: LoadPlan) -> Iterator[str]:
    if plan.misshapen:
        shapes = [f"{n} {a} in the file, {b} in the model" for n, a, b in plan.misshapen]
        yield f"other shape: {some(shapes)}"
    if plan.refused:
        yield f"cannot be used: {some([f'{name}: {why}' for name, why in plan.refused])}"
    if plan.missing:
        hints = [n + nearest(n, _near(plan)) for n in plan.missing[:_SHOWN]]
        yield f"not in the file: {some(hints, len(plan.missing))}"
    if plan.inside:
        yield f"not in the model, and part of its blocks in the file: {some(plan.inside)}"
    within = set(plan.inside)
    beside = [name for name in plan.unexpected if name not in within]
    if beside:
        yield f"not in the model: {some(beside)}"
    for doubt in plan.doubts[:_SHOWN]:
        yield f"not taken: {plain(doubt, _LONGEST)}"


def _near(plan: LoadPlan) -> list[str]:
    return [name for name in plan.unexpected[:_COMPARED] if len(name) <= _LONGEST]


def _others(plan: LoadPlan) -> str:
    if not plan.others:
        return ""
    names = some([repr(name) for name in plan.others])
    return f"; as much is covered by {names}, to be had with where= or --where"


def _table(plan: LoadPlan) -> list[str]:
    """Return a line for each thing that happens to tensors; none where all are as they were."""
    groups: dict[tuple[str, str], list[Assignment]] = {}
    for one in plan.assignments:
        groups.setdefault((one.why, str(one.transform)), []).append(one)
    if list(groups) in ([], [("same name", str(Copy()))]):
        return []
    rows = [("tensors", "found by", "values", "the first of them")]
    for (why, how), members in groups.items():
        first = members[0]
        shown = plain(f"{', '.join(first.sources)} → {first.target}", _LONGEST)
        rows.append((str(len(members)), why, how, shown))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return [
        f"{row[0]:>{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:<{widths[2]}}  {row[3]}"
        for row in rows
    ]


def some(names: Collection[str], total: int | None = None) -> str:
    """Return the first few names, and how many more there are."""
    total = len(names) if total is None else total
    shown = [plain(name, _LONGEST) for name in list(names)[:_SHOWN]]
    return ", ".join(shown) + (f" and {total - len(shown)} more" if total > len(shown) else "")


def as_dict(plan: LoadPlan) -> dict[str, Any]:
    """Return a plan as plain JSON values."""
    return {
        "source": plan.source,
        "where": plan.where,
        "others": list(plan.others),
        "coverage": plan.coverage,
        "loaded": [
            {
                "target": a.target,
                "sources": list(a.sources),
                "values": str(a.transform),
                "why": a.why,
                "cast": list(a.cast) if a.cast else None,
            }
            for a in plan.assignments
        ],
        **{name: list(map(_plain, getattr(plan, name))) for name in _LISTS},
    }


_LISTS = (
    *("tied", "kept", "missing", "misshapen", "refused", "unexpected", "inside", "dropped"),
    *("notes", "doubts"),
)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value

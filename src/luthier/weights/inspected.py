"""An inspection → text for a person, 80 columns wide."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from luthier.files.contents import architecture
from luthier.files.contents.candidates import Candidate
from luthier.files.entries import Entry, Record, RefusedEntry, SparseEntry, TensorEntry
from luthier.files.wording import plain, shown, some
from luthier.weights.nametree import Row, nbytes_of, rows

if TYPE_CHECKING:
    from luthier.weights.inspect import Inspection, OptimizerState

_IMPORTED = "code by name that a pickle loader would have imported: "
_NARROWEST = 24  # of a column of names
_KEY = 28  # of a key
_DULL = ("files", "format", "luthier", "sha256")  # said elsewhere, or of no use to a reader


@dataclass(frozen=True)
class Limits:
    """How much is said.

    Attributes:
        rows: of a table of tensors, and lines of an architecture.
        few: of anything else.
        width: of a line.
    """

    rows: int
    few: int
    width: int


SHORT = Limits(rows=40, few=10, width=80)
FULL = Limits(rows=sys.maxsize, few=sys.maxsize, width=1_000)


def text(found: Inspection, limits: Limits) -> str:
    """Return an inspection as text."""
    sections = (
        _head(found, limits),
        _suspicious(found.suspicious, limits),
        _weights(found, limits),
        _tensors(found.weights, limits),
        _optimizers(found.optimizers, limits),
        _values(found.values, limits),
        *(_architecture(where, module, limits) for where, module in found.modules),
    )
    return "\n\n".join(filter(None, map("\n".join, sections)))


def size(nbytes: float) -> str:
    """Return a number of bytes as people write it, in powers of 1,000: ``"13.6 MB"``."""
    if nbytes < 1_000:
        return f"{nbytes:.0f} B"
    for unit in ("kB", "MB", "GB"):
        nbytes /= 1_000
        if nbytes < 999.95:
            return f"{nbytes:.1f} {unit}"
    return f"{nbytes / 1_000:,.1f} TB"


def _head(found: Inspection, limits: Limits) -> Iterator[str]:
    by = f", written by {found.producer}" if found.producer else ""
    yield plain(str(found.path), 1_000)
    yield f"  {found.kind}, {size(found.nbytes)}{by}"
    facts = dict(found.facts)
    described = {key: shown(value, 300) for key, value in found.metadata.items()}
    said = described | facts
    yield from _pairs([pair for pair in said.items() if pair[0] not in _DULL], limits)


def _pairs(pairs: Sequence[tuple[str, str]], limits: Limits) -> Iterator[str]:
    """Give one line for each name and value, the values below each other."""
    listed = list(islice(pairs, limits.few))
    width = max((min(len(key), _KEY) for key, _ in listed), default=0)
    for key, value in listed:
        name = _cut(plain(key), _KEY).ljust(width)
        yield _cut(f"  {name}  {plain(value, limits.width)}", limits.width)
    yield from _more(len(pairs), limits.few)


def _more(total: int, limit: int) -> Iterator[str]:
    if total > limit:
        yield f"  … and {total - limit:,} more (--all lists them)"


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else line[: width - 1] + "…"


def _suspicious(found: Sequence[str], limits: Limits) -> Iterator[str]:
    worst = [line for line in found if not line.startswith(_IMPORTED)]
    names = [line.removeprefix(_IMPORTED) for line in found if line.startswith(_IMPORTED)]
    if worst:
        yield "SUSPICIOUS (nothing in the file was run). A pickle loader"
        yield from (_cut(f"  {line}", limits.width) for line in worst[: limits.few])
        yield from _more(len(worst), limits.few)
    if names:
        yield "Code by name, which a pickle loader would have imported (luthier did not)"
        yield from (_cut(f"  {name}", limits.width) for name in names[: limits.few])
        yield from _more(len(names), limits.few)


def _weights(found: Inspection, limits: Limits) -> Iterator[str]:
    if not found.weights:
        yield "No weights in it"
        return
    yield "Weights, the best first" if len(found.weights) > 1 else "Weights"
    listed = [_summary(candidate) for candidate in found.weights[: limits.few]]
    widths = [max(map(len, column)) for column in zip(*listed, strict=True)]
    for candidate, (where, count, elements, nbytes, dtypes) in zip(
        found.weights, listed, strict=False
    ):
        sums = f"{count.rjust(widths[1])}  {elements.rjust(widths[2])}  {nbytes.rjust(widths[3])}"
        yield _cut(f"  {where.ljust(widths[0])}  {sums}  {dtypes}", limits.width)
        yield from (_cut(f"    {note}", limits.width) for note in _notes(candidate))
    yield from _more(len(found.weights), limits.few)
    if found.unlisted:
        yield f"  … and {found.unlisted:,} more places with a few tensors among other things"


def _summary(candidate: Candidate) -> tuple[str, str, str, str, str]:
    entries = candidate.entries.values()
    dtypes = Counter(entry.spec.dtype for entry in entries if entry.spec is not None)
    elements = sum(e.count for e in entries if isinstance(e, TensorEntry))
    return (
        _where(candidate.where),
        _counted(len(entries), "tensor"),
        _counted(elements, "element"),
        size(sum(map(nbytes_of, entries))),
        ", ".join(name for name, _ in dtypes.most_common(4)),
    )


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _where(where: str) -> str:
    return _middle(plain(where), 40) or "at the top"


def _notes(candidate: Candidate) -> Iterator[str]:
    if candidate.note:
        yield plain(candidate.note)
    entries = candidate.entries
    devices = {entry.device for entry in entries.values() if isinstance(entry, TensorEntry)}
    if devices - {"cpu"}:
        yield f"saved on {some(sorted(map(plain, devices)), len(devices), 4)}"
    tied = _tied(entries)
    if tied:
        listed = some((f"{plain(a, 60)} = {plain(b, 60)}" for a, b in tied), len(tied), 3)
        yield f"tied: {listed}"
    refused = [plain(name, 60) for name, e in entries.items() if isinstance(e, RefusedEntry)]
    if refused:
        yield f"not to be had: {some(refused, len(refused), 4)}"


def _tied(entries: Mapping[str, Entry]) -> list[tuple[str, str]]:
    """Return the names that are the very same tensor as one before."""
    first: dict[tuple[object, ...], str] = {}
    found = []
    for name, entry in entries.items():
        if not isinstance(entry, TensorEntry) or not entry.nbytes:
            continue
        same = (id(entry.blob), entry.offset, entry.strides, entry.spec)
        before = first.setdefault(same, name)
        if before != name:
            found.append((name, before))
    return found


def _tensors(weights: Sequence[Candidate], limits: Limits) -> Iterator[str]:
    if not weights:
        return
    best = weights[0]
    listed = rows(best.entries, limits.rows)
    if limits.rows < len(best.entries):
        listed = listed[: limits.rows]
    else:
        listed = [Row(name, (entry,)) for name, entry in best.entries.items()]
    yield "Tensors" if len(weights) == 1 else f"Tensors of {_where(best.where)}"
    yield from _table(listed, limits.width)
    left = len(best.entries) - sum(row.count for row in listed)
    yield from _more(left, 0)


def _table(listed: Sequence[Row], width: int) -> Iterator[str]:
    looks, sizes = [_look(row) for row in listed], [size(row.nbytes) for row in listed]
    last = max(map(len, sizes), default=0)
    room = width - last - len("  ") * 3
    middle = min(max(map(len, looks), default=0), room - _NARROWEST)
    longest = max((len(row.name) for row in listed), default=0)
    first = max(_NARROWEST, min(longest, room - middle))
    for row, look, nbytes in zip(listed, looks, sizes, strict=True):
        name = _middle(plain(row.name, 1_000), first).ljust(first)
        yield f"  {name}  {_cut(look, middle).ljust(middle)}  {nbytes.rjust(last)}"


def _middle(name: str, width: int) -> str:
    """Cut a name in the middle, for its end tells more than what is before."""
    if len(name) <= width:
        return name
    end = (width - 1) * 2 // 3
    return f"{name[: width - 1 - end]}…{name[-end:]}"


def _look(row: Row) -> str:
    times = f"{row.times:,} x " if row.times > 1 else ""
    if row.is_group:
        return f"{times}{len(row.entries):,} tensors"
    (entry,) = row.entries
    if isinstance(entry, RefusedEntry):
        return f"{times}{entry.spec or 'tensor'}: {plain(entry.why)}"
    layout = f" {entry.layout}" if isinstance(entry, SparseEntry) else ""
    return f"{times}{entry.spec}{layout}"


def _optimizers(found: Sequence[OptimizerState], limits: Limits) -> Iterator[str]:
    if not found:
        return
    yield "Optimizers, which are no weights"
    for one in found[: limits.few]:
        kinds = some(one.kinds, len(one.kinds), 4) or "nothing"
        what = f"{kinds} of {_counted(one.parameters, 'parameter')}, {size(one.nbytes)}"
        yield _cut(f"  {_where(one.where)}  {what}", limits.width)
    yield from _more(len(found), limits.few)


def _values(values: Sequence[tuple[str, str]], limits: Limits) -> Iterator[str]:
    if values:
        yield "Beside them"
        yield from _pairs(values, limits)


def _architecture(where: str, module: Record, limits: Limits) -> Iterator[str]:
    yield f"Architecture of {_where(where)}"
    lines: Iterable[str] = architecture.lines(module)
    for number, line in enumerate(lines):
        if number == limits.rows:
            yield "  … (--all prints all of it)"
            return
        yield _cut(f"  {line}", limits.width)

"""Two runs, bit by bit: where they part, and why they probably do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from luthier import checkpoint
from luthier.run.conditions import differences
from luthier.run.folder import RunFolder
from luthier.run.trace import read_trace

_TIMES = ("seconds",)  # of a metrics line: they differ between any two runs


@dataclass(frozen=True)
class Difference:
    """Something that two runs do not share: ``str(difference)`` says what."""

    what: str

    def __str__(self) -> str:
        return self.what


def compare_runs(
    one: Mapping[str, RunFolder], other: Mapping[str, RunFolder]
) -> tuple[list[Difference], str]:
    """Compare the ends of runs by name: every tensor, the optimizer's state, the metrics.

    Returns:
        what differs, the first step first; and what was compared, in a few words.
    """
    found: list[Difference] = []
    said = []
    for name in sorted(one.keys() | other.keys()):
        if name not in one or name not in other:
            found.append(Difference(f"there is a run {name} on one side alone"))
            continue
        parting = _parting(one[name], other[name])
        if parting is not None:
            found.append(Difference(f"first at step {parting[0]}, in its {parting[1]}"))
        found += _compare_metrics(one[name], other[name])
        more, summary = _compare_ends(one[name], other[name])
        found += more
        said.append(summary)
    return found, "; ".join(said)


def _parting(one: RunFolder, other: RunFolder) -> tuple[int, str] | None:
    """Return the first step that differs, and whether it does so in its batch or its weights."""
    a, b = read_trace(one.path), read_trace(other.path)
    for step in sorted(a.keys() & b.keys()):
        for index, what in enumerate(("batch", "weights")):
            if {seen[index] for seen in a[step]} != {seen[index] for seen in b[step]}:
                return step, what
    return None


def _compare_metrics(one: RunFolder, other: RunFolder) -> list[Difference]:
    a, b = (_lines(run) for run in (one, other))
    for number, (mine, theirs) in enumerate(zip(a, b, strict=False), start=1):
        if mine != theirs:
            names = [n for n in {**mine, **theirs} if mine.get(n) != theirs.get(n)]
            text = ", ".join(f"{n} {mine.get(n)} against {theirs.get(n)}" for n in names[:3])
            return [Difference(f"metrics.jsonl, line {number}, step {mine.get('step')}: {text}")]
    if len(a) != len(b):
        return [Difference(f"metrics.jsonl has {len(a)} lines against {len(b)}")]
    return []


def _lines(run: RunFolder) -> list[dict[str, Any]]:
    if not run.metrics.exists():
        return []
    records = map(json.loads, run.metrics.read_text(encoding="utf-8").splitlines())
    # Through text again, since a NaN does not equal itself.
    return [{k: json.dumps(v) for k, v in r.items() if k not in _TIMES} for r in records]


def _compare_ends(one: RunFolder, other: RunFolder) -> tuple[list[Difference], str]:
    ends = [checkpoint.newest(run.checkpoints) for run in (one, other)]
    if ends[0] is None or ends[1] is None:
        return [Difference("there is no checkpoint to compare")], "nothing was compared"
    a, b = ends[0], ends[1]
    found = [Difference(f"{text}") for text in _compare_plain(a, b)]
    tensors = 0
    for part in a.parts:
        if part in b.parts:
            tensors += len(a.parts[part].tensors)
            found += _compare_tensors(part, a.parts[part].tensors, b.parts[part].tensors)
    if one.model.exists() != other.model.exists() or (
        one.model.exists() and one.model.read_bytes() != other.model.read_bytes()
    ):
        found.append(Difference("model.safetensors, the best model, differs"))
    lines = len(_lines(one))
    parts = ", ".join(a.parts)
    step = a.manifest["step"]
    return found, f"{step} steps, {tensors} tensors of {parts}, {lines} lines of metrics"


def _compare_plain(a: checkpoint.Checkpoint, b: checkpoint.Checkpoint) -> list[str]:
    mine = {**a.state, **{f"the state of {n}": s.plain for n, s in a.parts.items()}}
    theirs = {**b.state, **{f"the state of {n}": s.plain for n, s in b.parts.items()}}
    return [
        f"{name}: {_short(mine.get(name))} against {_short(theirs.get(name))}"
        for name in {**mine, **theirs}
        if mine.get(name) != theirs.get(name)
    ]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else text[:60] + " …"


def _compare_tensors(
    part: str, a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]
) -> list[Difference]:
    found = [
        Difference(f"{part}: {name} is on one side alone") for name in sorted(a.keys() ^ b.keys())
    ]
    for name in sorted(a.keys() & b.keys()):
        mine, theirs = a[name], b[name]
        if mine.dtype != theirs.dtype or mine.shape != theirs.shape:
            found.append(Difference(f"{part}: {name} has another shape or dtype"))
            continue
        unequal = _unequal(mine, theirs)
        if unequal is not None:
            place, count = unequal
            found.append(
                Difference(
                    f"{part}: {name}{list(place)} is {mine[place].item()!r} against"
                    f" {theirs[place].item()!r} ({count} of {mine.numel()} elements differ)"
                )
            )
    return found


def _unequal(a: torch.Tensor, b: torch.Tensor) -> tuple[tuple[int, ...], int] | None:
    width = a.element_size()
    bits = [t.contiguous().flatten().view(torch.uint8).view(-1, width) for t in (a, b)]
    differ = (bits[0] != bits[1]).any(1) if a.numel() else torch.zeros(0, dtype=torch.bool)
    if not differ.any():
        return None
    first = int(differ.nonzero()[0])
    place = torch.unravel_index(torch.tensor(first), a.shape)
    return tuple(int(index) for index in place), int(differ.sum())


def probable_cause(
    whole: Sequence[RunFolder],
    killed: Sequence[RunFolder],
    again: Sequence[RunFolder],
    kernels: Sequence[str],
) -> str:
    """Say what probably makes two runs differ.

    Args:
        whole: uninterrupted.
        killed: interrupted.
        again: uninterrupted once more.
        kernels: what torch says of operations that are not deterministic.
    """
    changed = [line for a, b in zip(whole, killed, strict=False) for line in _conditions(a, b)]
    if changed:
        return "; ".join(changed)
    by_itself = _parting_kind(whole, again)
    if by_itself == "weights" and kernels:
        return f"an operation that is not deterministic: {' / '.join(kernels[:3])}"
    return _BY_ITSELF.get(by_itself) or _AFTER_A_RESUME[_parting_kind(whole, killed)]


def _parting_kind(one: Sequence[RunFolder], other: Sequence[RunFolder]) -> str | None:
    partings = (_parting(a, b) for a, b in zip(one, other, strict=False))
    return next((parting[1] for parting in partings if parting is not None), None)


# By what differs first: a step's batch, its weights, or (None) neither.
_BY_ITSELF: dict[str | None, str] = {
    "batch": "two uninterrupted runs differ too, first in their data: the dataset or a transform"
    " draws from a source that is not keyed, such as numpy.random.default_rng() made without a seed"
    " in __getitem__, os.urandom or the time",
    "weights": "two uninterrupted runs differ too, with the same data: an operation of the model"
    " that is not deterministic, or randomness of a generator of its own",
}
_AFTER_A_RESUME: dict[str | None, str] = {
    "batch": "the data differs after a resume: the dataset, sampler or a transform keeps state of"
    " its own from one sample or epoch to the next",
    "weights": "the weights differ after a resume: something that decides a step is not tracked;"
    " give it to luthier.Run by name",
    None: "the weights and data of all steps are the same: what differs is something that the loop"
    " keeps in a variable of its own, such as a sum over an epoch, which a resume begins anew",
}


def _conditions(one: RunFolder, other: RunFolder) -> list[str]:
    ends = [checkpoint.newest(run.checkpoints) for run in (one, other)]
    if ends[0] is None or ends[1] is None:
        return []
    return differences(ends[0].manifest["environment"], ends[1].manifest["environment"])

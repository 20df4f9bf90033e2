"""Pair tensors by their order, shape and last name, where only one way fits. Pure; no torch here.

The model's tensors must all be found among the file's, in the same order, each with the same shape
and the same last name (``weight``, ``running_mean``). The first way that fits, found from the
beginning, and the last, found from the end, are the outermost of all ways: where they are the same
there is no other.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from luthier.adapt.names import Proposal, Specs
from luthier.adapt.plan import Assignment

# Buffers that count: of BatchNorm its batches, of AveragedModel what it is the average of.
COUNTS = ("num_batches_tracked", "n_averaged")
_NEIGHBOURS = 16
_OF_A_LAYER = ("weight", "bias", "running_mean", "running_var")
# Old names of the same things; shapes are compared all the same.
_ROLES = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean"}
_ROLES["moving_variance"] = "running_var"
Pairs = dict[str, str]  # the model's name → the file's


def by_order(
    model: Specs, file: Specs, known: Mapping[str, str], skip: Collection[str] = ()
) -> Proposal:
    """Pair what is not paired yet; all of it, or nothing with the reason.

    Args:
        model: the model's tensors, in its order.
        file: the file's, in its order.
        known: pairs that stand, as the model's name → the file's; the rest must lie between them.
        skip: names of the model that need no partner.
    """
    ours = [name for name in model if name not in skip and not name.endswith(COUNTS)]
    theirs = [name for name in file if not name.endswith(COUNTS)]
    try:
        found = _aligned(_Sequences(ours, theirs, model, file), known)
        _check_layers({**known, **found})
        _check_names(found, model)
        _check_numbers(found.values())
    except _NoSingleWayError as error:
        return Proposal(doubts=(f"order and shape: {error}",))
    if not found:
        return Proposal()
    pairs = {**found, **_counts(found, model, file)}
    links = {
        name: Assignment(name, (pairs[name],), why="order and shape")
        for name in model
        if name in pairs
    }
    shown = ", ".join(f"{pairs[name]} → {name}" for name in list(found)[:3])
    note = (
        f"order and shape: {len(found)} tensors in the same order with the same shape and last"
        f" name, and no other way fits: {shown}, …"
    )
    return Proposal(links, (note,))


class _NoSingleWayError(Exception):
    """No way fits, or more than one."""


class _Sequences:
    """Names of both sides in order, and whether two can be the same tensor."""

    def __init__(self, ours: list[str], theirs: list[str], model: Specs, file: Specs) -> None:
        self.ours, self.theirs, self._model, self._file = ours, theirs, model, file

    def same(self, ours: str, theirs: str) -> bool:
        shapes = self._model[ours].shape == self._file[theirs].shape
        return shapes and _role(ours) == _role(theirs)

    def told(self, name: str) -> str:
        return f"{name} {self._model[name]}"


def _role(name: str) -> str:
    last = name.rpartition(".")[2]
    return _ROLES.get(last, last)


def _aligned(both: _Sequences, known: Mapping[str, str]) -> Pairs:
    found: Pairs = {}
    for ours, theirs in _between(both, known):
        if ours:
            found.update(_only_way(both, ours, theirs))
    return found


def _between(both: _Sequences, known: Mapping[str, str]) -> Iterator[tuple[list[str], list[str]]]:
    """Give the stretches of both sides between pairs that stand."""
    place = {name: index for index, name in enumerate(both.theirs)}
    stretch: list[str] = []
    start = 0
    for name in both.ours:
        if name not in known:
            stretch.append(name)
            continue
        at = place.get(known[name], start)
        if at < start:
            raise _NoSingleWayError(
                f"{known[name]} stands elsewhere in the file's order{_hint(both)}"
            )
        yield stretch, both.theirs[start:at]
        stretch, start = [], at + 1
    yield stretch, both.theirs[start:]


def _only_way(both: _Sequences, ours: Sequence[str], theirs: Sequence[str]) -> Pairs:
    first = _first_way(both, ours, theirs)
    last = _first_way(both, ours[::-1], theirs[::-1])
    for name in ours:
        if first[name] != last[name]:
            raise _NoSingleWayError(
                f"{both.told(name)} could be {first[name]} or {last[name]} of the file"
            )
    return first


def _first_way(both: _Sequences, ours: Sequence[str], theirs: Sequence[str]) -> Pairs:
    rest = iter(theirs)
    found: Pairs = {}
    for name in ours:
        for other in rest:
            if both.same(name, other):
                found[name] = other
                break
        else:
            raise _NoSingleWayError(
                f"{both.told(name)} has no partner in the file's order{_hint(both)}"
            )
    return found


def _hint(both: _Sequences) -> str:
    if both.theirs == sorted(both.theirs) and both.ours != sorted(both.ours):
        return ", which is the alphabet's and not that of the model it came from"
    return ""


def _check_layers(pairs: Mapping[str, str]) -> None:
    """Make sure that what is one layer on one side is one layer on the other."""
    seen: tuple[Pairs, Pairs] = ({}, {})
    for ours, theirs in pairs.items():
        if _role(ours) not in _OF_A_LAYER:
            continue
        names = ours.rpartition(".")[0], theirs.rpartition(".")[0]
        for side, (name, other) in enumerate((names, names[::-1])):
            if seen[side].setdefault(name, other) != other:
                raise _NoSingleWayError(
                    f"{name} would be taken apart: {seen[side][name]} and {other}"
                )


def _check_names(pairs: Mapping[str, str], model: Specs) -> None:
    """Make sure that no two neighbours of the same shape have each other's names."""
    alike: dict[tuple[str, str, tuple[int, ...]], list[str]] = defaultdict(list)
    for name in pairs:
        layer, _, _ = name.rpartition(".")
        alike[layer.rpartition(".")[0], _role(name), model[name].shape].append(name)
    for names in alike.values():
        near = ((n, o) for i, n in enumerate(names) for o in names[i + 1 : i + _NEIGHBOURS])
        for one, other in near:
            straight = _likeness(one, pairs[one]) + _likeness(other, pairs[other])
            crossed = _likeness(one, pairs[other]) + _likeness(other, pairs[one])
            exchanged = (_own(one), _own(other)) == (_own(pairs[other]), _own(pairs[one]))
            if crossed > straight or (exchanged and _own(one) != _own(other)):
                raise _NoSingleWayError(
                    f"by their order {pairs[one]} is {one} and {pairs[other]} is {other}, by their"
                    " names it is the other way round"
                )


def _check_numbers(theirs: Iterable[str]) -> None:
    """Make sure that the file counts upwards: 10 before 2 is the alphabet's order."""
    last: dict[str, tuple[tuple[int, ...], str]] = {}
    for name in theirs:
        family = re.sub(r"[0-9]+", "#", name)
        numbers = tuple(int(digits[-9:]) for digits in re.findall(r"[0-9]+", name))
        before, earlier = last.get(family, (numbers, name))
        if numbers < before:
            raise _NoSingleWayError(f"{earlier} stands before {name} in the file")
        last[family] = numbers, name


def _own(name: str) -> str:
    """Return the name of a tensor's layer, without what stands before it."""
    return name.rpartition(".")[0].rpartition(".")[2].strip("_")


def _likeness(ours: str, theirs: str) -> int:
    """Return how many words of the last components are alike; numbers say nothing."""
    return sum(
        any(a.startswith(b) or b.startswith(a) for b in _words(theirs)) for a in _words(ours)
    )


def _words(name: str) -> list[str]:
    own = name.split(".")[-2:]
    return [word for part in own for word in re.findall(r"[a-z]+", part.lower())]


def _counts(pairs: Mapping[str, str], model: Specs, file: Specs) -> Pairs:
    layers = {ours.rpartition(".")[0]: theirs.rpartition(".")[0] for ours, theirs in pairs.items()}
    return {
        name: other
        for name in model
        if name.endswith(COUNTS)
        and (layer := name.rpartition(".")[0]) in layers
        and (other := f"{layers[layer]}.{name.rpartition('.')[2]}") in file
    }

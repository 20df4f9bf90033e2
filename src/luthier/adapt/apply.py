"""Match a file to a model, and carry the plan out: all of it, or nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import nn

from luthier.adapt.making import made
from luthier.adapt.matching import How, Sides, as_head, plan
from luthier.adapt.plan import HeadFit, LoadPlan
from luthier.adapt.report import some
from luthier.adapt.sources import (
    File,
    Model,
    Target,
    Weights,
    storage_place,
    target_of,
    weights_in,
)
from luthier.errors import DoesNotFitError, ModelError, RecipeError

_MOST_PLACES = 16  # of a file that are matched one by one


def match(
    model: Model,
    file: File,
    head: HeadFit | Collection[str] = (),
    where: str | None = None,
    how: How | None = None,
) -> LoadPlan:
    """Return what loading a file into a model would do. Nothing is changed.

    Args:
        model: the model, or its tensors' specs in the order of its ``state_dict``.
        file: a file or folder of weights, what was opened already, or named tensors.
        head: what becomes of the head; or model tensors that keep their initial value.
        where: the place of the weights in the file; by default the one that covers most.
        how: what may be tried besides names; everything by default.

    Raises:
        UnsupportedFileError, DamagedError: see ``luthier.files.opening.open_archive``.
        ModelError: the model has parameters without a shape.
    """
    found = weights_in(file, where)
    return _chosen(target_of(model), found, as_head(head), how or How())[1]


def load(
    model: nn.Module,
    file: File,
    head: HeadFit | Collection[str] = (),
    coverage: float = 1.0,
    where: str | None = None,
    how: How | None = None,
) -> LoadPlan:
    """Put a file's weights into a model, all or nothing, and return what was done.

    Args:
        model: is changed in place, and not at all if anything is raised.
        file: see ``match``.
        head: see ``match``.
        coverage: least part of the model's tensors, those kept on purpose aside, that must be
            loaded, in (0, 1]. With 1 the file may have no more in the model's blocks, either.
        where: see ``match``.
        how: see ``match``.

    Raises:
        DoesNotFitError: less is covered; the message lists missing, unexpected and misshapen.
        UnsupportedFileError, DamagedError, ModelError: see ``match``.
    """
    if not 0.0 < coverage <= 1.0:
        raise RecipeError(f"coverage is {coverage}, expected a number in (0, 1]")
    found = weights_in(file, where)
    target = target_of(model)
    weights, decided = _chosen(target, found, as_head(head), how or How())
    check_coverage(decided, coverage)
    return _carry_out(target, decided, weights)


def check_coverage(decided: LoadPlan, coverage: float = 1.0) -> None:
    """Make sure that a plan covers enough, and anything at all.

    A file that has more in the blocks of the model than the model is of another network: it has to
    be asked for, as a part of the model is.

    Raises:
        DoesNotFitError: it does not; the message is the plan's report.
    """
    if decided.assignments and decided.coverage >= coverage:
        if not decided.inside or coverage < 1.0:
            return
        raise DoesNotFitError(
            f"the weights {decided.source} are of another network: they cover the model, and have"
            f" {len(decided.inside)} more tensors in its blocks: {decided}",
            cure="give the model that they belong to; to load them all the same: coverage=0.99",
        )
    raise DoesNotFitError(
        f"the weights {decided.source} do not fit the model ({100 * decided.coverage:.1f} %"
        f" covered, {100 * coverage:.0f} % asked for): {decided}",
        cure="give the weights of this architecture, or the --model that they belong to",
    )


def _chosen(
    target: Target, found: Sequence[Weights], head: HeadFit, how: How
) -> tuple[Weights, LoadPlan]:
    """Return the place whose weights cover most, the first of equals, and its plan."""

    def planned(weights: Weights, how: How) -> LoadPlan:
        sides = Sides(target.specs, weights.specs, head, target.tied, weights.refused)
        return plan(sides, how)

    only_names = dataclasses.replace(how, rules=(), built_in=False, order=False)
    looked_at = found[:_MOST_PLACES]
    plans = [planned(weights, only_names) for weights in looked_at]
    if max(one.coverage for one in plans) < 1.0:
        plans = [planned(weights, how) for weights in looked_at]
    best = max(range(len(plans)), key=lambda i: (plans[i].coverage, not plans[i].inside))
    extra = (
        [f"extra state and what is no tensor, left as it is: {some(target.extra)}"]
        if target.extra
        else []
    )
    weights = found[best]
    also = [
        other.where
        for other, one in zip(looked_at, plans, strict=True)
        if other is not weights and one.assignments and one.coverage >= plans[best].coverage
    ]
    return weights, dataclasses.replace(
        plans[best],
        source=weights.source,
        where=weights.where,
        others=tuple(also),
        notes=(*plans[best].notes, *extra),
    )


# --- carrying out -------------------------------------------------------------------------------


def _carry_out(target: Target, decided: LoadPlan, weights: Weights) -> LoadPlan:
    """Do what a plan says, and return it with what its casts did to numbers.

    Everything is read, made and checked before the first change.

    Raises:
        DoesNotFitError: tensors that the model ties differ in the file.
        ModelError: the model's tensors cannot be written to.
        DamagedError, UnsupportedFileError: a tensor of the file cannot be read.
    """
    state = target.state
    _check_writable(target, decided.loaded)
    sources = {name: _dense(weights.read(name)) for a in decided.assignments for name in a.sources}
    own = {storage_place(tensor) for tensor in state.values()} if weights.is_live else set()
    for name, source in sources.items() if own else ():
        if storage_place(source) in own - {None}:  # the model's own, which are about to change
            sources[name] = source.clone()
    values = {
        a.target: made(a.transform, [sources[name] for name in a.sources], state[a.target])
        for a in decided.assignments
    }
    _check_values(values, state, target.tied)
    _check_kept(decided, target.tied)
    with torch.no_grad():
        for name, value in values.items():
            state[name].copy_(value)
    return _with_overflows(decided, values, state)


def _with_overflows(
    decided: LoadPlan, values: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]
) -> LoadPlan:
    """Note where a cast made numbers infinite that were none."""
    lost = [n for n, of, to in decided.cast if _overflows(of, to, values[n], state[n])]
    if not lost:
        return decided
    note = f"numbers too large for the model's dtype are no longer finite in: {some(lost)}"
    return dataclasses.replace(decided, notes=(*decided.notes, note))


def _overflows(of: str, to: str, value: torch.Tensor, there: torch.Tensor) -> bool:
    """Tell whether numbers that were finite are not where they were written to."""
    if not there.is_floating_point() or ("float" in of and _largest(of) <= _largest(to)):
        return False
    return _infinite(value) != _infinite(there)


def _largest(dtype: str) -> float:
    return torch.finfo(getattr(torch, dtype)).max


def _infinite(tensor: torch.Tensor) -> int:
    # torch has no isfinite for the dtypes of one byte.
    plain = tensor.float() if tensor.element_size() == 1 else tensor
    return int((~plain.isfinite()).sum())


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.layout == torch.strided else tensor.to_dense()


def _check_writable(target: Target, names: Collection[str]) -> None:
    for name in names:
        tensor = target.state[name]
        if name in target.copies:
            raise ModelError(
                f"{name} of the model's state_dict() is a copy, so that nothing written to it"
                " reaches the model",
                cure="take off the hook that copies it, or load before it is put on",
            )
        if tensor.is_inference():
            raise ModelError(
                f"{name} was made in inference mode, in which nothing can be changed later",
                cure="make the model outside of torch.inference_mode()",
            )
        if tensor.is_meta:
            raise ModelError(
                f"{name} is on the meta device, which holds no values",
                cure='give it memory first: model.to_empty(device="cpu")',
            )
        strides = tensor.stride()
        if 0 in strides and any(
            s == 0 and n > 1 for s, n in zip(strides, tensor.shape, strict=True)
        ):
            raise ModelError(
                f"{name} is an expanded view, whose elements share memory",
                cure="give the model a tensor of its own: .contiguous()",
            )


def _check_values(
    values: Mapping[str, torch.Tensor],
    state: Mapping[str, torch.Tensor],
    tied: Sequence[Sequence[str]],
) -> None:
    for name, value in values.items():
        if value.shape != state[name].shape:  # the plan knew it already
            raise DoesNotFitError(
                f"{name}: {list(value.shape)} in the file, {list(state[name].shape)} in the model"
            )
    for group in tied:
        first, *others = [name for name in group if name in values] or [""]
        for other in others:
            if not _same(values[first], values[other]):
                raise DoesNotFitError(
                    f"{first} and {other} share their memory in the model, and differ in the file",
                    cure="untie them in the model before loading",
                )


def _check_kept(decided: LoadPlan, tied: Sequence[Sequence[str]]) -> None:
    """Make sure that what keeps its values does: it may be tied to what is loaded."""
    loaded, kept = set(decided.loaded), set(decided.kept)
    for group in tied:
        both = [name for name in group if name in kept], [name for name in group if name in loaded]
        if all(both):
            raise DoesNotFitError(
                f"{both[0][0]} is to keep its values, and shares its memory with {both[1][0]},"
                " which is loaded",
                cure="untie them in the model before loading, or load both",
            )


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Tell whether two tensors are equal, a NaN and a NaN included."""
    if torch.equal(one, other):
        return True
    return one.dtype == other.dtype and torch.equal(_bytes(one), _bytes(other))


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().flatten().view(torch.uint8)

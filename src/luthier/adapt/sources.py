"""What is to be matched: a model's tensors, and the places with weights in a file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from luthier.adapt.names import unwrapped
from luthier.errors import ModelError, RecipeError, UnsupportedFileError
from luthier.files import tensors
from luthier.files.contents.candidates import Candidate, candidates, select
from luthier.files.entries import Archive, Entry, RefusedEntry
from luthier.files.opening import open_archive
from luthier.values import TensorSpec

Model = nn.Module | Mapping[str, TensorSpec]
File = Archive | Path | str | Mapping[str, torch.Tensor]
T = TypeVar("T")
_UNKNOWN = TensorSpec((-1,), "unknown")


@dataclass(frozen=True)
class Target:
    """A model's tensors.

    Attributes:
        specs: in the order of its ``state_dict``.
        tied: groups of names that share memory.
        state: the tensors themselves, where there is a model.
        copies: those of them that are not the model's own memory, so that writing there is in vain.
        extra: names of extra state and of what is no tensor.
    """

    specs: Mapping[str, TensorSpec]
    tied: tuple[tuple[str, ...], ...] = ()
    state: Mapping[str, torch.Tensor] = field(default_factory=dict)
    copies: frozenset[str] = frozenset()
    extra: tuple[str, ...] = ()


@dataclass(frozen=True)
class Weights:
    """A place in a file that has named tensors.

    Attributes:
        source: the file.
        where: the place in it; "" is the top.
        note: what a reader should know of it.
        specs: its tensors in order.
        refused: those that cannot be read, and why.
        read: gives one by its name.
        is_live: they are tensors in memory, perhaps the model's own.
    """

    source: str
    where: str
    specs: Mapping[str, TensorSpec]
    read: Callable[[str], torch.Tensor]
    note: str = ""
    refused: Mapping[str, str] = field(default_factory=dict)
    is_live: bool = False


def target_of(model: Model) -> Target:
    """Return the tensors of a model, which may be given as specs.

    Raises:
        ModelError: it has parameters that have no shape yet.
    """
    if not isinstance(model, nn.Module):
        return Target(model)
    # The parameters themselves, which are one object where they are tied.
    held = model.state_dict(keep_vars=True)
    state = {n: t for n, t in held.items() if isinstance(t, torch.Tensor) and not _is_extra(n)}
    owners: dict[Hashable, list[str]] = defaultdict(list)
    for name, tensor in state.items():
        if is_lazy(tensor):
            raise ModelError(
                f"{name} of {type(model).__name__} has no shape yet",
                cure="send one batch through the model first",
            )
        owners[_memory(tensor)].append(name)
    specs = {name: tensors.spec(tensor) for name, tensor in state.items()}
    tied = tuple(tuple(names) for names in owners.values() if len(names) > 1)
    extra = tuple(name for name in held if name not in state)
    return Target(specs, tied, state, _copies(model, state), extra)


def _is_extra(name: object) -> bool:
    return isinstance(name, str) and name.rpartition(".")[2] == "_extra_state"


def _memory(tensor: torch.Tensor) -> Hashable:
    """Return what is equal for tensors that are the same elements of the same memory."""
    if not _has_memory(tensor) or not (at := tensor.data_ptr()):
        return id(tensor)
    return at, tensor.device, tensor.shape, tensor.stride(), tensor.dtype


def _has_memory(tensor: torch.Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_meta and not tensor.is_nested


def storage_place(tensor: torch.Tensor) -> Hashable | None:
    """Return which memory a tensor lies in; None where that cannot be told."""
    if not _has_memory(tensor):
        return None
    return (tensor.device, at) if (at := tensor.untyped_storage().data_ptr()) else None


def _copies(model: nn.Module, state: Mapping[str, torch.Tensor]) -> frozenset[str]:
    """Find what hooks of a state_dict have made anew."""
    held = [t for m in model.modules() for t in (*m._parameters.values(), *m._buffers.values())]
    known = set(map(id, held))
    strange = {name: tensor for name, tensor in state.items() if id(tensor) not in known}
    places = {storage_place(t) for t in held if t is not None} if strange else set()
    return frozenset(
        name
        for name, tensor in strange.items()
        if (place := storage_place(tensor)) is not None and place not in places
    )


def weights_in(file: File, where: str | None = None) -> list[Weights]:
    """Return the places with weights in a file, best first; with ``where``, that one.

    Args:
        file: a path, what was opened already, or named tensors.
        where: a place that ``luthier inspect`` names, or one and a prefix of names in it.

    Raises:
        UnsupportedFileError: it holds no named tensors, or none there; see ``open_archive`` too.
        DamagedError: see ``open_archive``.
    """
    if isinstance(file, Mapping):
        return [_live(file, where)]
    if not isinstance(file, Archive | Path | str):
        raise RecipeError(
            f"the weights are a {type(file).__name__}, expected a path, an opened file, or tensors"
            " by name",
            cure="of a model: give its state_dict()",
        )
    archive = file if isinstance(file, Archive) else open_archive(Path(file))
    found = candidates(archive)
    if not found:
        raise UnsupportedFileError(
            f"{archive.path} holds no named tensors", cure=f"see: luthier inspect {archive.path}"
        )
    chosen = found if where is None else [_at(found, where)]
    return [_weights(str(archive.path), candidate) for candidate in chosen]


def _live(given: Mapping[str, torch.Tensor], where: str | None) -> Weights:
    """Return named tensors as a place; with ``where`` those whose names begin so."""
    named = {name: value for name, value in given.items() if not _is_extra(name)}
    for name, value in named.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise UnsupportedFileError(
                f"{name!r} of the weights is a {type(value).__name__}, expected tensors by name",
                cure="give the part with the tensors, such as file['state_dict'], or the path",
            )
    if where:
        prefix = where.rstrip(".") + "."
        named = _beginning(named, prefix)
        if not named:
            raise UnsupportedFileError(f"none of the tensors' names begins with {prefix!r}")
    refused = {name: why for name, tensor in named.items() if (why := _why_not(tensor))}
    specs = {n: _UNKNOWN if n in refused else tensors.spec(t) for n, t in named.items()}
    return Weights("tensors", where or "", specs, named.__getitem__, refused=refused, is_live=True)


def _why_not(tensor: torch.Tensor) -> str:
    if tensor.is_nested or tensor.is_quantized:
        return "is nested" if tensor.is_nested else "is quantized"
    return "is on the device meta, without values" if tensor.is_meta else ""


def _at(found: Sequence[Candidate], where: str) -> Candidate:
    """Return the candidate of a name, or the part of one whose names begin so."""
    if all(where != candidate.where for candidate in found):
        for candidate in sorted(found, key=lambda one: -len(one.where)):
            part = _part(candidate, where)
            if part is not None:
                return part
    return select(found, where)


def _part(candidate: Candidate, where: str) -> Candidate | None:
    before = f"{candidate.where}." if candidate.where else ""
    prefix = where.removeprefix(before).rstrip(".") + "."
    if not where.startswith(before):
        return None
    entries = _beginning(candidate.entries, prefix)
    note = f"the names in {candidate.where or 'the top'!r} that begin with {prefix}"
    return Candidate(where, entries, note) if entries else None


def _beginning(named: Mapping[str, T], prefix: str) -> dict[str, T]:
    """Return what begins so, without it; what wrappers put before it need not be said."""
    bare = unwrapped(named)
    for short in ({name: name for name in named}, bare):
        found = {
            short[name].removeprefix(prefix): value
            for name, value in named.items()
            if short[name].startswith(prefix)
        }
        if found:
            return found
    return {}


def _weights(source: str, candidate: Candidate) -> Weights:
    live = tensors.Tensors(candidate.entries)
    refused = {
        name: entry.why
        for name, entry in candidate.entries.items()
        if isinstance(entry, RefusedEntry)
    }
    specs = {name: _spec(entry) for name, entry in candidate.entries.items()}
    return Weights(source, candidate.where, specs, live.__getitem__, candidate.note, refused)


def _spec(entry: Entry) -> TensorSpec:
    return entry.spec or _UNKNOWN

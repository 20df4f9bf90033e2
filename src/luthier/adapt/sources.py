"""What is to be matched: a model's tensors, and the places with weights in a file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from luthier.errors import ModelError, UnsupportedFileError
from luthier.files import tensors
from luthier.files.contents.candidates import Candidate, candidates, select
from luthier.files.entries import Archive, Entry, RefusedEntry
from luthier.files.opening import open_archive
from luthier.values import TensorSpec

Model = nn.Module | Mapping[str, TensorSpec]
File = Archive | Path | str | Mapping[str, torch.Tensor]
_UNKNOWN = TensorSpec((-1,), "unknown")


@dataclass(frozen=True)
class Target:
    """A model's tensors.

    Attributes:
        specs: in the order of its ``state_dict``.
        tied: groups of names that share memory.
        state: the tensors themselves, where there is a model.
    """

    specs: Mapping[str, TensorSpec]
    tied: tuple[tuple[str, ...], ...] = ()
    state: Mapping[str, torch.Tensor] = field(default_factory=dict)


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
    """

    source: str
    where: str
    specs: Mapping[str, TensorSpec]
    read: Callable[[str], torch.Tensor]
    note: str = ""
    refused: Mapping[str, str] = field(default_factory=dict)


def target_of(model: Model) -> Target:
    """Return the tensors of a model, which may be given as specs.

    Raises:
        ModelError: it has parameters that have no shape yet.
    """
    if not isinstance(model, nn.Module):
        return Target(model)
    # The parameters themselves, which are one object where they are tied; without extra state that
    # is no tensor.
    held = model.state_dict(keep_vars=True)
    state = {name: tensor for name, tensor in held.items() if isinstance(tensor, torch.Tensor)}
    owners: dict[int, list[str]] = defaultdict(list)
    for name, tensor in state.items():
        if is_lazy(tensor):
            raise ModelError(
                f"{name} of {type(model).__name__} has no shape yet",
                cure="send one batch through the model first",
            )
        owners[id(tensor)].append(name)
    specs = {name: tensors.spec(tensor) for name, tensor in state.items()}
    tied = tuple(tuple(names) for names in owners.values() if len(names) > 1)
    return Target(specs, tied, state)


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
        specs = {name: tensors.spec(tensor) for name, tensor in file.items()}
        return [Weights("tensors", "", specs, file.__getitem__)]
    archive = file if isinstance(file, Archive) else open_archive(Path(file))
    found = candidates(archive)
    if not found:
        raise UnsupportedFileError(
            f"{archive.path} holds no named tensors", cure=f"see: luthier inspect {archive.path}"
        )
    chosen = found if where is None else [_at(found, where)]
    return [_weights(str(archive.path), candidate) for candidate in chosen]


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
    entries = {
        name.removeprefix(prefix): entry
        for name, entry in candidate.entries.items()
        if name.startswith(prefix)
    }
    note = f"the names in {candidate.where or 'the top'!r} that begin with {prefix}"
    return Candidate(where, entries, note) if entries else None


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

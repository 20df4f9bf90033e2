"""``inspect``: what is in a file. Nothing in it runs, and its tensors stay on the disk.

No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from luthier.files.contents import architecture, modules
from luthier.files.contents.candidates import Candidate, contents, key_text, producer, suspicious
from luthier.files.entries import Archive, Entry, Record, RefusedEntry, SparseEntry, TensorEntry
from luthier.files.opening import open_archive
from luthier.files.wording import plain, shown
from luthier.weights import inspected
from luthier.weights.nametree import nbytes_of

_ENTRIES = (TensorEntry, SparseEntry, RefusedEntry)
_VALUES = 1_000  # of other values, and of parameters of an optimizer, that are looked at


@dataclass(frozen=True)
class OptimizerState:
    """The state of an optimizer, which is no weights.

    Attributes:
        where: as of a ``Candidate``.
        kinds: what is kept for each parameter: "exp_avg", "momentum_buffer", …
        parameters: how many parameters have a state.
        nbytes: of its tensors.
    """

    where: str
    kinds: tuple[str, ...]
    parameters: int
    nbytes: int


@dataclass(frozen=True)
class Inspection:
    """What ``inspect`` found; ``str`` is for a person, ``as_dict`` for a program.

    Attributes:
        path: the file or folder.
        kind: its format.
        nbytes: of the file; of a folder, of the files in it.
        producer: the program that wrote it, where something tells.
        facts: what else its format says.
        metadata: the description that luthier wrote into it.
        weights: the places with named tensors, best first.
        unlisted: how many more places there are with a few tensors among other things.
        optimizers: what is no weights.
        values: what else is at the top, as text.
        modules: those that were pickled whole, as (where, module).
        suspicious: what a pickle loader would have run or imported.
    """

    path: Path
    kind: str
    nbytes: int
    producer: str | None
    facts: tuple[tuple[str, str], ...]
    metadata: Mapping[str, Any]
    weights: tuple[Candidate, ...]
    unlisted: int
    optimizers: tuple[OptimizerState, ...]
    values: tuple[tuple[str, str], ...]
    modules: tuple[tuple[str, Record], ...]
    suspicious: tuple[str, ...]

    def __str__(self) -> str:
        return inspected.text(self, inspected.SHORT)

    def full(self) -> str:
        """Return what ``str`` gives, with nothing left out."""
        return inspected.text(self, inspected.FULL)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values: every tensor with its name, dtype, shape and bytes."""
        return {
            "path": str(self.path),
            "kind": self.kind,
            "bytes": self.nbytes,
            "producer": self.producer,
            "facts": dict(self.facts),
            "metadata": dict(self.metadata),
            "weights": [_candidate_as_dict(candidate) for candidate in self.weights],
            "unlisted": self.unlisted,
            "optimizers": [
                {"where": o.where, "kinds": o.kinds, "parameters": o.parameters, "bytes": o.nbytes}
                for o in self.optimizers
            ],
            "values": dict(self.values),
            "modules": [{"where": w, "parts": _parts(module)} for w, module in self.modules],
            "suspicious": list(self.suspicious),
        }


def inspect(path: str | Path) -> Inspection:
    """Look into a file of weights, or a folder of files that belong together.

    Args:
        path: of any format that luthier reads, whatever its name.

    Raises:
        UnsupportedFileError: it does not exist, or is of a kind that luthier does not read.
        DamagedError: it is truncated or contradicts itself.
        MissingExtraError: it is of a kind whose reader is not installed.
    """
    return inspection(open_archive(Path(path)))


def inspection(archive: Archive) -> Inspection:
    """Look into what has been opened already. See ``inspect``."""
    found = contents(archive)
    return Inspection(
        path=archive.path,
        kind=archive.kind,
        nbytes=_size(archive.path),
        producer=producer(archive),
        facts=archive.facts,
        metadata=archive.metadata,
        weights=found.candidates,
        unlisted=found.unlisted,
        optimizers=tuple(_optimizer(where, state) for where, state in found.optimizers),
        values=_values(archive, found.keys),
        modules=found.whole,
        suspicious=suspicious(archive),
    )


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.iterdir() if file.is_file())


def _values(archive: Archive, held: frozenset[Any]) -> tuple[tuple[str, str], ...]:
    """Return what is at the top beside weights and optimizers."""
    top = archive.content.state if isinstance(archive.content, Record) else archive.content
    if modules.is_module(archive.content) or isinstance(top, _ENTRIES):
        return ()
    if not isinstance(top, dict):
        return () if archive.content is None or held else (("", shown(archive.content)),)
    others = (
        (plain(key_text(key)), shown(value, 300))
        for key, value in top.items()
        if key not in held and not isinstance(value, _ENTRIES)
    )
    return tuple(islice(others, _VALUES))


def _optimizer(where: str, state: Mapping[Any, Any]) -> OptimizerState:
    kinds: dict[str, None] = {}
    parameters: dict[Any, None] = {}
    nbytes = 0
    for parameter, kind, value in _kept(state):
        parameters[parameter] = None
        if len(kinds) < _VALUES:
            kinds[plain(kind, 60)] = None
        nbytes += value.nbytes if isinstance(value, TensorEntry) else 0
    return OptimizerState(where, tuple(kinds), len(parameters), nbytes)


def _kept(state: Mapping[Any, Any]) -> Iterator[tuple[Any, str, Any]]:
    """Give what an optimizer keeps, as (parameter, kind, value)."""
    if "param_groups" not in state:  # luthier's names: "exp_avg/layer1.0.conv1.weight"
        for name, value in state.items():
            kind, _, parameter = name.partition("/")
            yield parameter, kind, value
        return
    kept = state["state"]
    for parameter, values in kept.items() if isinstance(kept, dict) else enumerate(kept):
        for kind, value in values.items() if isinstance(values, dict) else [("", values)]:
            yield parameter, key_text(kind), value


def _candidate_as_dict(candidate: Candidate) -> dict[str, Any]:
    return {
        "where": candidate.where,
        "note": candidate.note,
        "tensors": [_entry_as_dict(name, entry) for name, entry in candidate.entries.items()],
    }


def _entry_as_dict(name: str, entry: Entry) -> dict[str, Any]:
    spec = entry.spec
    found: dict[str, Any] = {"name": name}
    found |= {"dtype": spec.dtype, "shape": list(spec.shape)} if spec else {}
    if isinstance(entry, RefusedEntry):
        return found | {"refused": entry.why}
    if isinstance(entry, SparseEntry):
        return found | {"layout": entry.layout, "bytes": nbytes_of(entry)}
    return found | {"bytes": entry.nbytes, "device": entry.device}


def _parts(module: Record) -> list[dict[str, Any]]:
    return [
        {
            "name": part.name,
            "class": part.made_by,
            "attributes": {key: _json(value) for key, value in part.attributes.items()},
        }
        for part in architecture.parts(module)
    ]


def _json(value: Any) -> Any:
    """Return an attribute as JSON has it: not every number of Python's is one there."""
    if isinstance(value, tuple):
        return [_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    huge = isinstance(value, int) and value.bit_length() > 1_000
    return shown(value) if huge else value

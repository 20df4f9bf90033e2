"""``convert``: the weights in any file that luthier reads, in a plain file of another kind."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from luthier.errors import RecipeError, UnsupportedFileError, nearest
from luthier.files import durable, layout, tensors, writing
from luthier.files.contents.candidates import Candidate, contents, select
from luthier.files.dtypes import DTYPES
from luthier.files.entries import Archive, Entry, SparseEntry, TensorEntry
from luthier.files.opening import open_archive
from luthier.files.wording import plain, some
from luthier.files.writing import Source, Stored
from luthier.values import TensorSpec
from luthier.weights.inspect import Inspection, inspection
from luthier.weights.inspected import size
from luthier.weights.save import refusals

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_FLOATS = tuple(name for name in DTYPES if "float" in name)


@dataclass(frozen=True)
class Converted:
    """What was converted; ``str(converted)`` is the report.

    Attributes:
        source: the file that was read.
        path: what was written.
        files: its files, by name; one, or the shards and their index.
        where: the place in the source.
        tensors: the number of names.
        nbytes: of the tensors that are stored.
        ties: names of tied tensors that are stored under another name, and that name.
        cast: how many tensors have another dtype than in the source.
        left_out: what else the source holds, a line each.
        notes: what a reader should know of what was written.
    """

    source: Path
    path: Path
    files: tuple[str, ...]
    where: str
    tensors: int
    nbytes: int
    ties: Mapping[str, str]
    cast: int
    left_out: tuple[str, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        place = f", from {self.where!r}" if self.where else ""
        lines = [f"{self.path}: {self.tensors} tensors, {size(self.nbytes)}{place}"]
        if len(self.files) > 1:
            lines += [f"  {name}" for name in self.files]
        if self.ties:
            pairs = [f"{plain(name)} is {plain(kept)}" for name, kept in self.ties.items()]
            lines.append(f"  stored once: {some(pairs, len(pairs))}")
        lines += [f"  {note}" for note in self.notes]
        lines += [f"  left out: {line}" for line in self.left_out]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "source": str(self.source),
            "path": str(self.path),
            "files": list(self.files),
            "where": self.where,
            "tensors": self.tensors,
            "bytes": self.nbytes,
            "ties": dict(self.ties),
            "cast": self.cast,
            "left_out": list(self.left_out),
            "notes": list(self.notes),
        }


def convert(
    file: str | Path,
    out: str | Path,
    *,
    where: str | None = None,
    dtype: str | None = None,
    shard_size: int | str | None = None,
    force: bool = False,
) -> Converted:
    """Write the weights of a file as safetensors or as a plain state_dict; nothing in it runs.

    At most one tensor is in memory at a time. Names, shapes, bits and ties stay what they are; what
    is no weights is left out, and said.

    Args:
        file: of any format that luthier reads, or a folder of files that belong together.
        out: ``.safetensors``, or ``.pt``, ``.pth`` or ``.bin``; with ``shard_size`` a new folder.
        where: the place of the weights, such as ``"model"``; the best one if not given.
        dtype: what floating-point tensors are cast to; otherwise each keeps its own.
        shard_size: bytes of a safetensors file, such as ``"2GB"``: several files and their index.
        force: replace ``out`` if it is there.

    Raises:
        RecipeError: ``out`` is there, or is the file itself, or the request makes no sense.
        UnsupportedFileError: the file is of a kind that luthier does not read, holds no weights,
            or a tensor that cannot be written.
        UnsupportedStateError: a tensor of a dtype that the format lacks; it is named.
        DamagedError: the file is truncated or contradicts itself.
        CannotWriteError: the disk is full or refuses; what was there is as it was.
    """
    file, out = Path(file), Path(out)
    limit = None if shard_size is None else bytes_of(shard_size)
    kind = _kind(out, limit)
    archive = open_archive(file)
    _check_place(archive, out, force)
    candidate = chosen(archive, where)
    casting = _Casting(_floating(dtype))
    stored = writing.stored(
        {name: casting.source(name, entry) for name, entry in candidate.entries.items()}
    )
    about = archive.metadata if "luthier" in archive.metadata else None
    with refusals(out, stored.nbytes):
        if limit is None:
            writing.write(out, stored, about)
            files: tuple[str, ...] = (out.name,)
        else:
            files = _write_shards(out, stored, limit, about)
    return Converted(
        source=file,
        path=out,
        files=files,
        where=candidate.where,
        tensors=len(stored.names),
        nbytes=stored.nbytes,
        ties=stored.ties,
        cast=casting.count,
        left_out=tuple(_left_out(inspection(archive), candidate, kind)),
        notes=tuple(casting.notes()),
    )


# --- what is asked for ------------------------------------------------------------------------


def _kind(out: Path, limit: int | None) -> str:
    if limit is None:
        return writing.kind_of(out)
    if out.suffix in writing.SUFFIXES:
        raise RecipeError(
            f"{out} is the name of one file, and shards are several",
            cure=f"give a new folder, such as {out.with_suffix('')}",
        )
    return "safetensors"


def _check_place(archive: Archive, out: Path, force: bool) -> None:
    if not out.exists():
        return
    file = archive.path
    is_shard = archive.kind.startswith("sharded") and out.parent.resolve() == file.parent.resolve()
    inside = file.is_dir() and out.resolve().is_relative_to(file.resolve())
    if out.samefile(file) or inside or is_shard:
        raise RecipeError(f"{out} is what is to be converted; luthier never writes over its input")
    if out.is_dir():
        raise RecipeError(f"{out} is there already, and luthier never changes a folder of weights")
    if not force:
        raise RecipeError(f"{out} is there already", cure="replace it with --force")


def bytes_of(text: int | str) -> int:
    """Return a number of bytes from ``"2GB"``, ``"500 MB"`` or ``"1GiB"``.

    Raises:
        RecipeError: it is none, or none that is positive.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?\s*", str(text).upper())
    base = 1 if found is None else _UNITS[found[2]]
    if found is not None and found[3]:
        base = 1 << 10 * list(_UNITS).index(found[2])
    number = int(float(found[1]) * base) if found is not None else 0
    if number < 1:
        raise RecipeError(f"{text!r} is no size of a file", cure="give it as 2GB or 500MB")
    return number


def _floating(dtype: str | None) -> str | None:
    if dtype is not None and dtype not in _FLOATS:
        raise RecipeError(
            f"{dtype!r} is no floating-point dtype{nearest(dtype, _FLOATS)}",
            cure=f"known: {', '.join(_FLOATS)}",
        )
    return dtype


def chosen(archive: Archive, where: str | None) -> Candidate:
    """Return the place of the weights in a file.

    Raises:
        UnsupportedFileError: there are none, or none of that name.
    """
    found = contents(archive).candidates
    if not found:
        raise UnsupportedFileError(
            f"{archive.path} holds no tensors by name",
            cure=f"see what it holds: luthier inspect {archive.path}",
        )
    return found[0] if where is None else select(found, where)


# --- tensors ----------------------------------------------------------------------------------


@dataclass
class _Casting:
    """Makes sources, and notes what a cast did to them."""

    dtype: str | None
    count: int = 0
    lost: list[str] = field(default_factory=list)

    def source(self, name: str, entry: Entry) -> Source:
        if not isinstance(entry, TensorEntry):
            why = f"is {entry.layout}" if isinstance(entry, SparseEntry) else entry.why
            raise UnsupportedFileError(
                f"tensor {plain(name)!r} {why}, which luthier does not write"
            )
        own = entry.spec.dtype
        dtype = self.dtype if self.dtype and own in _FLOATS else own
        self.count += dtype != own
        spec = TensorSpec(entry.spec.shape, dtype)
        place = id(entry.blob), entry.offset, entry.strides, entry.flags, entry.big_endian
        memory = (*place, entry.spec) if entry.count else None
        return Source(spec, lambda: self._read(name, entry, dtype), memory)

    def _read(self, name: str, entry: TensorEntry, dtype: str) -> torch.Tensor:
        found = tensors.tensor(entry, name)
        if dtype == entry.spec.dtype:
            return found
        cast = found.to(getattr(torch, dtype))
        if not torch.equal(_finite(cast), _finite(found)):
            self.lost.append(plain(name))
        return cast

    def notes(self) -> Iterator[str]:
        if self.count:
            yield f"cast to {self.dtype}: {self.count} tensors"
        if self.lost:
            named = some(self.lost, len(self.lost))
            yield f"numbers too large for {self.dtype} are no longer finite in: {named}"


def _finite(tensor: torch.Tensor) -> torch.Tensor:
    # torch has no isfinite for the dtypes of one byte.
    return (tensor.float() if tensor.element_size() == 1 else tensor).isfinite()


# --- shards -----------------------------------------------------------------------------------


def _write_shards(
    folder: Path, stored: Stored, limit: int, about: Mapping[str, Any] | None
) -> tuple[str, ...]:
    """Write shards and their index as transformers names them; one file if all fits in."""
    parts = layout.shards(stored.specs, limit)
    if len(parts) == 1:
        with durable.new_directory(folder) as temporary:
            laid = layout.lay_out(stored.specs, about, stored.ties)
            content = writing.safetensors_chunks(laid, stored.sources)
            durable.write_chunks(temporary / "model.safetensors", content)
        return ("model.safetensors",)
    names = [f"model-{n:05d}-of-{len(parts):05d}.safetensors" for n in range(1, len(parts) + 1)]
    files = dict(zip(names, parts, strict=True))
    index_name = "model.safetensors.index.json"
    with durable.new_directory(folder) as temporary:
        for name, part in files.items():
            specs = {tensor: stored.specs[tensor] for tensor in part}
            ties = {other: kept for other, kept in stored.ties.items() if kept in specs}
            laid = layout.lay_out(specs, ties=ties)
            content = writing.safetensors_chunks(laid, stored.sources)
            durable.write_chunks(temporary / name, content)
        durable.write_bytes(temporary / index_name, _index(files, stored.nbytes, about))
    return (*names, index_name)


def _index(files: Mapping[str, list[str]], nbytes: int, about: Mapping[str, Any] | None) -> bytes:
    where = {tensor: file for file, part in files.items() for tensor in part}
    metadata: dict[str, Any] = {"total_size": nbytes}
    if about:
        metadata["luthier"] = dict(about)
    index = {"metadata": metadata, "weight_map": dict(sorted(where.items()))}
    return (json.dumps(index, indent=2, sort_keys=True) + "\n").encode()


# --- what is left out -------------------------------------------------------------------------


def _left_out(found: Inspection, candidate: Candidate, kind: str) -> Iterator[str]:
    for other in found.weights:
        if other.where != candidate.where:
            note = f"{other.note}; " if other.note else ""
            yield (
                f"{_place(other.where)}: {len(other.entries)} tensors"
                f" ({note}take it with --where {other.where!r})"
            )
    if found.unlisted:
        yield f"{found.unlisted} more places with a few tensors"
    for optimizer in found.optimizers:
        yield f"{_place(optimizer.where)}: an optimizer's state, {size(optimizer.nbytes)}"
    for key, value in found.values:
        yield f"{key or 'the top'}: {value}"
    for where, module in found.modules:
        yield f"the class of {_place(where)}: {plain(str(module.made_by))}"
    yield from _metadata_left_out(found, candidate, kind)


def _metadata_left_out(found: Inspection, candidate: Candidate, kind: str) -> Iterator[str]:
    if kind == "torch" and found.metadata:
        yield "the file's description of its model"
    for key, value in found.facts if found.kind == "safetensors" else ():
        if key != "format" and value not in candidate.entries:  # else it is a tie
            yield f"metadata {plain(key)}: {plain(value, 60)}"


def _place(where: str) -> str:
    return plain(where) or "the top"

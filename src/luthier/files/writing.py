"""Write named tensors to a file, each read when its turn comes: safetensors, or torch's zip file.

Tensors that are the same elements of the same memory (tied weights) are stored once. Other tensors
that share memory are each written whole, and none brings along more of its storage than it shows.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from luthier.errors import UnsupportedFileError, UnsupportedStateError
from luthier.files import durable, layout, torch_file
from luthier.files.layout import Layout
from luthier.values import TensorSpec

SUFFIXES = {".safetensors": "safetensors", ".pt": "torch", ".pth": "torch", ".bin": "torch"}


@dataclass(frozen=True)
class Source:
    """A tensor that is to be written.

    Attributes:
        spec: what is written: a tensor that is read with another dtype is cast.
        read: gives it, on any device.
        memory: equal for tensors that are the same elements of the same memory; None of none.
    """

    spec: TensorSpec
    read: Callable[[], torch.Tensor]
    memory: Hashable = None


@dataclass(frozen=True)
class Stored:
    """What goes into a file.

    Attributes:
        sources: what is stored, by name.
        names: all names in their order, each with the name that its tensor is stored under.
    """

    sources: Mapping[str, Source]
    names: Mapping[str, str]

    @property
    def ties(self) -> dict[str, str]:
        """The names under which nothing is stored, each with the one that is."""
        return {name: kept for name, kept in self.names.items() if name != kept}

    @property
    def specs(self) -> dict[str, TensorSpec]:
        """Shape and dtype of what is stored."""
        return {name: source.spec for name, source in self.sources.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of what is stored."""
        return sum(map(layout.nbytes, self.specs.values()))


def kind_of(path: Path) -> str:
    """Return what a file of this name is to be: "safetensors" or "torch".

    Raises:
        UnsupportedFileError: the suffix says neither.
    """
    if path.suffix not in SUFFIXES:
        raise UnsupportedFileError(
            f"{path} cannot be written: luthier writes {', '.join(SUFFIXES)} files, and the suffix"
            f" is {path.suffix!r}",
            cure="name it .safetensors, or .pt for a plain state_dict",
        )
    return SUFFIXES[path.suffix]


def source_of(name: str, tensor: torch.Tensor) -> Source:
    """Return the source of a live tensor.

    Raises:
        UnsupportedStateError: it is of a kind that has no plain elements; it is named.
    """
    kind = _strange_kind(tensor)
    if kind is not None:
        raise UnsupportedStateError(
            f"tensor {name!r} is {kind}, which luthier does not write",
            cure="make it a plain tensor first, such as by to_dense() or dequantize()",
        )
    plain = tensor.detach()
    spec = TensorSpec(tuple(plain.shape), str(plain.dtype).removeprefix("torch."))
    memory = None
    if plain.numel():
        where = plain.device, plain.untyped_storage().data_ptr(), plain.storage_offset()
        memory = (*where, spec, plain.stride(), plain.is_conj(), plain.is_neg())
    return Source(spec, lambda: plain, memory)


def _strange_kind(tensor: torch.Tensor) -> str | None:
    if tensor.is_nested or tensor.is_quantized:
        return "nested" if tensor.is_nested else "quantized"
    if tensor.is_meta:
        return "on the device meta, without values"
    return None if tensor.layout == torch.strided else str(tensor.layout)


def stored(sources: Mapping[str, Source]) -> Stored:
    """Decide what is stored: of tied tensors the first name, in the order of the names."""
    kept: dict[str, Source] = {}
    names: dict[str, str] = {}
    first: dict[Hashable, str] = {}
    for name, source in sources.items():
        alone = source.memory is None or name in layout.TAKEN
        names[name] = name if alone else first.setdefault(source.memory, name)
        if names[name] == name:
            kept[name] = source
    return Stored(kept, names)


def write(path: Path, what: Stored, metadata: Mapping[str, Any] | None = None) -> None:
    """Write a file of the kind that its suffix says, atomically and durably.

    The same tensors and metadata give the same bytes. At most one tensor is held at a time.

    Args:
        path: an old file is replaced in one step.
        what: the tensors.
        metadata: plain JSON values, which only a safetensors file holds.

    Raises:
        UnsupportedFileError: see ``kind_of``.
        UnsupportedStateError: a tensor of a dtype that the format lacks; it is named.
        OSError: the disk refuses; what was there is as it was.
    """
    durable.write_file(path, chunks(kind_of(path), what, metadata))


def chunks(
    kind: str, what: Stored, metadata: Mapping[str, Any] | None = None
) -> Iterator[bytes | memoryview]:
    """Give the content of a file of a kind ("safetensors" or "torch") piece by piece."""
    if kind == "torch":
        return torch_chunks(what)
    laid = layout.lay_out(what.specs, metadata, what.ties)
    return safetensors_chunks(laid, what.sources)


def safetensors_chunks(laid: Layout, sources: Mapping[str, Source]) -> Iterator[bytes | memoryview]:
    """Give a safetensors file's content piece by piece."""
    yield laid.header
    for name in laid.places:
        yield bytes_of(sources[name])


def torch_chunks(what: Stored) -> Iterator[bytes | memoryview]:
    """Give the content of torch's zip file piece by piece."""
    numbers = {name: number for number, name in enumerate(what.sources)}
    storages = [
        torch_file.Storage(source.spec, _reader(source)) for source in what.sources.values()
    ]
    names = {name: numbers[kept] for name, kept in what.names.items()}
    return torch_file.chunks(names, storages)


def _reader(source: Source) -> Callable[[], memoryview]:
    return lambda: bytes_of(source)


def bytes_of(source: Source) -> memoryview:
    """Return a tensor's elements in order, as bytes on the host."""
    dtype: torch.dtype = getattr(torch, source.spec.dtype)
    read = source.read().detach().to("cpu").resolve_conj().resolve_neg()
    plain = read.to(dtype).contiguous().flatten()
    return plain.view(torch.uint8).numpy().data

"""TorchScript, old torch files and distributed checkpoints by hand, so that they can lie."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import metadata as dcp
from torch.distributed.checkpoint.filesystem import _StorageInfo

CODE = "class M(Module):\n  __parameters__ = []\n  __buffers__ = []\n"


class Scripted:
    """A module of TorchScript: its attributes."""

    def __init__(self, **attributes: Any) -> None:
        self.attributes = attributes


class _Pickler(pickle._Pickler):
    def save(self, item: Any, save_persistent_id: bool = True) -> Any:
        if not isinstance(item, Scripted):
            return super().save(item, save_persistent_id)
        if id(item) in self.memo:
            return self.write(self.get(self.memo[id(item)][0]))
        self.write(b"c__torch__\nM\n)\x81")
        self.memoize(item)
        super().save(item.attributes)
        return self.write(b"b")


def torchscript(path: Path, module: Scripted, code: str = CODE, constants: bytes = b"") -> Path:
    """Write an archive of TorchScript whose modules are all of one class, ``__torch__.M``."""
    file = io.BytesIO()
    _Pickler(file, protocol=2).dump(module)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", file.getvalue())
        archive.writestr("a/constants.pkl", constants or b"\x80\x02).")
        archive.writestr("a/code/__torch__.py", code, compress_type=zipfile.ZIP_DEFLATED)
        archive.writestr("a/version", "3\n")
    return path


class Reference:
    """A storage, by its place in the list of persistent ids."""

    def __init__(self, number: int) -> None:
        self.number = number


class Rebuilt:
    """Pickles as a call of torch's function of that time."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __reduce__(self) -> Any:
        return torch._utils._rebuild_tensor, self.arguments


def legacy(persistent: list[tuple[Any, ...]], raw: bytes, value: Any, keys: Any) -> bytes:
    """Write torch's format before 1.6; ``persistent`` are what a ``Reference`` stands for."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, item: Any) -> Any:
            return persistent[item.number] if isinstance(item, Reference) else None

    file = io.BytesIO()
    for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(part, file, protocol=2)
    Pickler(file, protocol=2).dump(value)
    pickle.dump(keys, file, protocol=2)
    return file.getvalue() + raw


Piece = tuple[tuple[int, ...], tuple[int, ...]]


def tensor_of(shape: tuple[int, ...], pieces: list[Piece]) -> dcp.TensorStorageMetadata:
    """Describe a tensor of float32 in pieces, each (offsets, sizes)."""
    chunks = [dcp.ChunkStorageMetadata(torch.Size(o), torch.Size(s)) for o, s in pieces]
    return dcp.TensorStorageMetadata(dcp.TensorProperties(torch.float32), torch.Size(shape), chunks)


def distributed(
    folder: Path,
    described: Mapping[str, Any],
    stored: Mapping[tuple[str, tuple[int, ...] | None], tuple[str, Any]],
    paths: Any = None,
) -> Path:
    """Write a checkpoint.

    Args:
        folder: of the checkpoint.
        described: tensors, by name.
        stored: by name and offsets: the name of the file that is said to hold it, and what a file
            in the folder holds.
        paths: of the names in the state.
    """
    places, content = {}, b""
    for (name, offsets), (file_name, value) in stored.items():
        file = io.BytesIO()
        torch.save(value, file)
        index = dcp.MetadataIndex(name, None if offsets is None else torch.Size(offsets))
        places[index] = _StorageInfo(file_name, len(content), len(file.getvalue()))
        content += file.getvalue()
    folder.joinpath("__0_0.distcp").write_bytes(content)
    whole = dcp.Metadata(dict(described), planner_data=paths, storage_data=places)
    folder.joinpath(".metadata").write_bytes(pickle.dumps(whole))
    return folder

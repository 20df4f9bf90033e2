"""Read a weights file into named tensors; write named tensors as safetensors.

A file's kind is told by its content, never by its name.
"""

from __future__ import annotations

import json
import math
import mmap
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch

from luthier.errors import DamagedError, UnsupportedFileError
from luthier.files import durable
from luthier.values import TensorSpec

METADATA_KEY = "luthier"
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_BY_NAME = {name: dtype for dtype, name in _DTYPES.items()}
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")


@dataclass(frozen=True)
class Archive:
    """What a weights file holds.

    Attributes:
        path: the file.
        kind: "safetensors" or "torch".
        tensors: by name, on the CPU.
        metadata: the description that luthier wrote into the file; empty in foreign files.
        sha256: of the file's bytes.
    """

    path: Path
    kind: str
    tensors: Mapping[str, torch.Tensor]
    metadata: Mapping[str, Any]
    sha256: str


def spec(tensor: torch.Tensor) -> TensorSpec:
    """Return a tensor's shape and dtype."""
    return TensorSpec(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def read(path: Path) -> Archive:
    """Read the tensors of a safetensors file or of a state_dict saved by torch.

    No code from the file is run: a torch file is read by torch's restricted unpickler, and
    there is no other way behind it.

    Raises:
        UnsupportedFileError: no such file, or no weights file that can be read as data.
        DamagedError: the file is truncated or its content contradicts itself.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UnsupportedFileError(f"weights file {path} {what}")
    with path.open("rb") as file:
        start = file.read(9)
    if not start:
        raise DamagedError(f"weights file {path} is empty")
    if start[8:9] == b"{":
        tensors, metadata = _read_safetensors(path)
        return Archive(path, "safetensors", tensors, metadata, durable.sha256(path))
    zipped = start[:4] == b"PK\x03\x04"
    if zipped or start[:1] == b"\x80":
        return Archive(path, "torch", _read_torch(path, zipped), {}, durable.sha256(path))
    raise UnsupportedFileError(
        f"{path} is no weights file: it begins with {start[:8]!r}",
        cure="luthier reads safetensors files and state_dicts written by torch.save",
    )


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            described = (file.metadata() or {}).get(METADATA_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = json.loads(described) if described else {}
        if not isinstance(metadata, dict):
            raise ValueError(f"its metadata {METADATA_KEY!r} is no JSON object")
    except (safetensors.SafetensorError, ValueError) as error:
        raise DamagedError(f"safetensors file {path} is damaged: {error}") from error
    return tensors, metadata


def _read_torch(path: Path, zipped: bool) -> dict[str, torch.Tensor]:
    try:
        if zipped:
            _check_zip(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of its own storage classes here
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnsupportedFileError(
            f"{path} holds more than tensors and plain containers, and nothing in it was run:"
            f" {_first_sentence(error)}",
            cure="save the model's state_dict() instead of the model",
        ) from error
    except Exception as error:  # the unpickler raises all kinds on damage
        raise DamagedError(f"{path} is truncated or damaged: {_first_sentence(error)}") from error
    return _state_dict(path, content)


def _check_zip(path: Path) -> None:
    # torch's own reader leaves the CRCs unchecked, and for a member that is marked as a folder it
    # gives whatever the memory holds.
    with zipfile.ZipFile(path) as file:
        damaged = file.testzip()
        folders = [i.filename for i in file.infolist() if i.external_attr & 0x10 or i.is_dir()]
    if damaged is not None or folders:
        raise ValueError(f"{damaged or folders[0]} differs from its CRC-32 or is a folder")


def _state_dict(path: Path, content: Any) -> dict[str, torch.Tensor]:
    candidates = [content]
    if isinstance(content, Mapping):
        candidates += [content[name] for name in _WRAPPERS if name in content]
    for candidate in candidates:
        if isinstance(candidate, Mapping) and candidate:
            tensors = {k: v for k, v in candidate.items() if isinstance(v, torch.Tensor)}
            if len(tensors) == len(candidate):
                return {str(k): v.detach() for k, v in tensors.items()}
    found = (
        sorted(map(str, content))[:8] if isinstance(content, Mapping) else type(content).__name__
    )
    raise UnsupportedFileError(
        f"{path} holds no state_dict: expected tensors by name, at the top or under one of"
        f" {', '.join(_WRAPPERS)}; found {found}"
    )


def _first_sentence(error: Exception) -> str:
    return str(error).strip().split("\n")[0].split(". ")[0] or type(error).__name__


def write(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any] | None = None
) -> None:
    """Write named tensors as a safetensors file, atomically and durably.

    Args:
        path: the file; an old one is replaced in one step.
        tensors: on any device; tensors that share memory are each written whole.
        metadata: plain JSON values, put under the key ``luthier`` of the file's metadata.
    """
    with durable.new_file(path) as temporary:
        write_in_place(temporary, tensors, metadata)


def write_in_place(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any] | None = None
) -> None:
    """Write as ``write`` does, but straight to ``path``: for inside a new directory.

    The same tensors and metadata give the same bytes. (The ``safetensors`` package writes the
    metadata in an order of chance, so the format, which is a page long, is written here.)

    Raises:
        TypeError: a dtype that safetensors does not know; the tensor is named.
    """
    header, places, _ = layout(tensors, metadata)
    with path.open("wb") as file:
        file.write(header)
        for name in places:
            plain = tensors[name].detach().to("cpu").resolve_conj().resolve_neg().contiguous()
            file.write(plain.flatten().view(torch.uint8).numpy().data)


def layout(
    tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any] | None = None
) -> tuple[bytes, dict[str, tuple[int, int]], int]:
    """Lay out a safetensors file.

    Args:
        tensors: only their shapes and dtypes are looked at.
        metadata: see ``write``.

    Returns:
        the bytes before the data; where in the data each tensor begins and ends, in the file's
        order; the data's length.

    Raises:
        TypeError: a dtype that safetensors does not know; the tensor is named.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    if metadata is not None:
        header["__metadata__"][METADATA_KEY] = json.dumps(metadata, sort_keys=True)
    places: dict[str, tuple[int, int]] = {}
    offset = 0
    # Wide dtypes first, so that every tensor begins at a multiple of its item's size.
    for name, tensor in sorted(
        tensors.items(), key=lambda item: (-item[1].element_size(), item[0])
    ):
        if tensor.dtype not in _DTYPES:
            raise TypeError(f"tensor {name!r} is {tensor.dtype}, which safetensors cannot hold")
        places[name] = (offset, offset + tensor.numel() * tensor.element_size())
        shape, dtype = list(tensor.shape), _DTYPES[tensor.dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": list(places[name])}
        offset = places[name][1]
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, places, offset


def parse(content: bytearray | mmap.mmap) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file's bytes, without a copy: they share its memory.

    Raises:
        ValueError: the header contradicts the content.
    """
    begin, entries = _entries(content, len(content))
    found: dict[str, torch.Tensor] = {}
    for name, (dtype, shape, start, end) in entries.items():
        if start == end:
            found[name] = torch.empty(shape, dtype=dtype)
            continue
        count = (end - start) // dtype.itemsize
        flat = torch.frombuffer(content, dtype=dtype, count=count, offset=begin + start)
        found[name] = flat.view(shape)
    return found


def check_structure(path: Path) -> int:
    """Look at a weights file without building a tensor; return how many tensors it names.

    Of a safetensors file the header is compared with the file's size: every tensor has the bytes
    that its shape and dtype ask for, one follows the other, and nothing is left over. Of a torch
    file every member's CRC-32 is compared (it names no tensors without being read: 0); one of
    torch before 1.6 has none, and is read.

    Raises:
        DamagedError: it contradicts itself. UnsupportedFileError: it is no weights file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(9)
            if start[:4] == b"PK\x03\x04":
                _check_zip(path)
                return 0
            if not start:
                raise ValueError("it is empty")
            if start[:1] == b"\x80":  # of torch before 1.6, without a checksum
                return len(_read_torch(path, zipped=False))
            if start[8:9] != b"{":
                raise UnsupportedFileError(f"{path} is no weights file: it begins with {start!r}")
            length = int.from_bytes(start[:8], "little")
            file.seek(0)
            _, entries = _entries(file.read(8 + min(length, size)), size)
            return len(entries)
    except (ValueError, zipfile.BadZipFile) as error:
        raise DamagedError(f"{path} is truncated or damaged: {error}") from error


_Entry = tuple[torch.dtype, list[int], int, int]


def _entries(content: bytes | bytearray | mmap.mmap, size: int) -> tuple[int, dict[str, _Entry]]:
    """Read and check a safetensors header; return where the data begins, and the tensors."""
    begin = 8 + int.from_bytes(content[:8], "little")
    if size < begin:
        raise ValueError(f"a header of {begin - 8} bytes in a file of {size}")
    header = json.loads(content[8:begin], object_pairs_hook=_without_repeats)
    header.pop("__metadata__", None)
    entries: dict[str, _Entry] = {}
    for name, entry in header.items():
        try:
            dtype, shape = _BY_NAME[entry["dtype"]], list(map(int, entry["shape"]))
            start, end = map(int, entry["data_offsets"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"tensor {name!r} is described as {str(entry)[:80]}") from error
        if end - start != math.prod(shape) * dtype.itemsize or min(shape, default=0) < 0:
            raise ValueError(f"tensor {name!r} has another size than its shape and dtype")
        entries[name] = dtype, shape, start, end
    at = 0
    for name, (_, _, start, end) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if start != at:
            raise ValueError(f"tensor {name!r} begins at byte {start} of the data, expected {at}")
        at = end
    if begin + at != size:
        raise ValueError(f"{begin + at} bytes are described, the file has {size}")
    return begin, entries


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found

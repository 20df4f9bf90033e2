"""How a safetensors file that luthier writes is laid out. No torch here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from luthier.errors import UnsupportedStateError
from luthier.files.dtypes import DTYPES
from luthier.values import TensorSpec

METADATA_KEY = "luthier"
TAKEN = ("format", METADATA_KEY)  # keys of the metadata that cannot be a tensor's other name


@dataclass(frozen=True)
class Layout:
    """A safetensors file before its data.

    Attributes:
        header: the bytes before the data.
        places: where in the data each tensor begins and ends, in the file's order.
        size: of the data, in bytes.
    """

    header: bytes
    places: Mapping[str, tuple[int, int]]
    size: int


def nbytes(spec: TensorSpec) -> int:
    """Return the bytes of a tensor's elements."""
    count = DTYPES[spec.dtype].itemsize
    for length in spec.shape:
        count *= length
    return count


def lay_out(
    tensors: Mapping[str, TensorSpec],
    metadata: Mapping[str, Any] | None = None,
    ties: Mapping[str, str] | None = None,
) -> Layout:
    """Lay out a safetensors file; the same tensors and metadata give the same bytes.

    Args:
        tensors: what is stored.
        metadata: plain JSON values, put under the key ``luthier`` of the file's metadata.
        ties: further names, each of a tensor that is stored under another name.

    Raises:
        UnsupportedStateError: a tensor that safetensors cannot hold; it is named.
    """
    about = {"format": "pt", **dict(sorted((ties or {}).items()))}
    if metadata is not None:
        about[METADATA_KEY] = json.dumps(metadata, sort_keys=True)
    header: dict[str, Any] = {"__metadata__": about}
    places: dict[str, tuple[int, int]] = {}
    offset = 0
    # Wide dtypes first, so that every tensor begins at a multiple of its item's size.
    for name, spec in sorted(tensors.items(), key=lambda item: (-_itemsize(*item), item[0])):
        places[name] = (offset, offset + nbytes(spec))
        offset = places[name][1]
        header[name] = {
            "dtype": DTYPES[spec.dtype].safetensors,
            "shape": list(spec.shape),
            "data_offsets": list(places[name]),
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return Layout(len(text).to_bytes(8, "little") + text, places, offset)


def _itemsize(name: str, spec: TensorSpec) -> int:
    dtype = DTYPES.get(spec.dtype)
    if dtype is None or dtype.safetensors is None:
        raise UnsupportedStateError(
            f"tensor {name!r} is torch.{spec.dtype}, which safetensors cannot hold",
            cure="write a .pt file, or give it another dtype",
        )
    if name == "__metadata__" or not _is_unicode(name):
        raise UnsupportedStateError(f"a safetensors file cannot hold a tensor of the name {name!r}")
    return dtype.itemsize


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def shards(tensors: Mapping[str, TensorSpec], limit: int) -> list[list[str]]:
    """Divide tensors among files, in their order: a new file where the next one would not fit.

    Args:
        tensors: what is stored.
        limit: bytes of the tensors of a file; one that is larger has a file of its own.
    """
    found: list[list[str]] = [[]]
    room = limit
    for name, spec in tensors.items():
        size = nbytes(spec)
        if size > room and found[-1]:
            found.append([])
            room = limit
        found[-1].append(name)
        room -= size
    return found

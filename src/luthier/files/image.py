"""A safetensors file as it will be on the disk, in memory: laid out once, filled for each save."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from luthier.files.tensors import layout

_BY_SIZE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_KNOWN_TO_NUMPY = {torch.float32, torch.float64, torch.float16, torch.int64, torch.uint8}
_LOOKED_AT = 8  # elements of a tensor


class Image:
    """Bytes of a safetensors file, with a place for each tensor.

    Args:
        tensors: only their shapes and dtypes are looked at.
        pinned: allocate where an accelerator can copy to while the host does something else.

    Raises:
        TypeError: a dtype that safetensors does not know; the tensor is named.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor], *, pinned: bool = False) -> None:
        self.key = key_of(tensors)
        self.header, places, size = layout(tensors)
        self._data = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
        self.tensors = {
            name: self._data[start:end].view(tensors[name].dtype).view(tensors[name].shape)
            for name, (start, end) in places.items()
        }

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return len(self.header) + self._data.numel()

    def chunks(self) -> tuple[bytes, memoryview]:
        """Return the file's content."""
        return self.header, self._data.numpy().data

    def sha256(self) -> str:
        """Return the hash of the file's content."""
        digest = hashlib.sha256(self.header)
        digest.update(self._data.numpy().data)
        return digest.hexdigest()


def key_of(tensors: Mapping[str, torch.Tensor]) -> tuple[Any, ...]:
    """Return what decides an image's layout: two states with equal keys fit one image."""
    return tuple(
        (name, t.dtype, t.layout, t.device.type, t.is_nested or t.shape)  # a nested one has none
        for name, t in tensors.items()
    )


def copy_bits(target: torch.Tensor, source: torch.Tensor) -> None:
    """Copy a tensor on the host into one of the same shape and dtype, on this thread alone.

    torch's own copy would take all cores, which training is using, and numpy's lets go of the
    interpreter's lock; bits are copied, so every dtype can be.
    """
    if source.numel():
        np.copyto(_bits(target), _bits(source))


def _bits(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    plain = tensor.detach()
    if plain.is_conj() or plain.is_neg():
        plain = plain.resolve_conj().resolve_neg()
    if plain.dtype not in _KNOWN_TO_NUMPY:
        plain = plain.view(_BY_SIZE[plain.element_size()])
    return plain.numpy()


def some_bits(tensor: torch.Tensor) -> bytes:
    """Return the bits of a few elements of a tensor on the host, from its first part to its last.

    Equal tensors give equal bits, in whatever order they lie in the memory.
    """
    array = _bits(tensor)
    every = max(1, array.size // _LOOKED_AT)
    # A reshape would copy all of what does not lie in order; the iterator is slower than a slice.
    flat = array.reshape(-1)[::every] if array.flags.c_contiguous else array.flat[::every]
    return flat.tobytes()

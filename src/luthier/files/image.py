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

Array = np.ndarray[Any, Any]


class Image:
    """Bytes of a safetensors file, with a place for each tensor.

    Args:
        tensors: only their shapes and dtypes are looked at.
        pinned: allocate where an accelerator can copy to while the host does something else.

    Attributes:
        tensors: the places, by name.
        bits: the same places, as ``bits_of`` gives them.

    Raises:
        UnsupportedStateError: a dtype that safetensors does not know; the tensor is named.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor], *, pinned: bool = False) -> None:
        self.header, places, size = layout(tensors)
        self._data = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
        self.tensors = {
            name: self._data[start:end].view(tensors[name].dtype).view(tensors[name].shape)
            for name, (start, end) in places.items()
        }
        self._expected = {name: _kind_of(tensor) for name, tensor in tensors.items()}
        self.bits = {name: bits_of(place) for name, place in self.tensors.items()}

    def fits(self, tensors: Mapping[str, torch.Tensor]) -> bool:
        """Tell whether it is laid out for these: by name, shape, dtype and kind of device."""
        expected = self._expected
        try:
            return expected.keys() == tensors.keys() and all(
                expected[name] == _kind_of(tensor) for name, tensor in tensors.items()
            )
        except RuntimeError:  # a nested tensor has no shape
            return False

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


def _kind_of(tensor: torch.Tensor) -> tuple[object, ...]:
    return tensor.shape, tensor.dtype, tensor.layout, tensor.device.type


def bits_of(tensor: torch.Tensor) -> Array:
    """Return the memory of a tensor on the host as an array: same shape, same bits.

    A dtype that numpy does not know is taken for integers of its size.
    """
    plain = tensor.detach() if tensor.requires_grad else tensor
    if plain.is_conj() or plain.is_neg():
        plain = plain.resolve_conj().resolve_neg()
    if plain.dtype not in _KNOWN_TO_NUMPY:
        plain = plain.view(_BY_SIZE[plain.element_size()])
    return plain.numpy()


def copy_bits(target: Array, source: Array) -> None:
    """Copy what ``bits_of`` gives to a place of the same shape and dtype, on this thread alone.

    torch's own copy would take all cores, which training is using; numpy's lets go of the
    interpreter's lock.
    """
    np.copyto(target, source)


def some_bits(array: Array) -> bytes:
    """Return the bits of a few elements, from the first part of an array to its last.

    Equal arrays give equal bits, in whatever order they lie in the memory.
    """
    every = array.size // _LOOKED_AT
    if every < 2:
        return array.tobytes()
    # A reshape would copy all of what does not lie in order; the iterator is slower than a slice.
    flat = array.reshape(-1)[::every] if array.flags.c_contiguous else array.flat[::every]
    return flat.tobytes()

"""Which bytes are alive, operation by operation, at the most."""

from __future__ import annotations

import functools
import math
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from luthier.devices.onednn import copied_bytes

_CUDA_BLOCK = 512  # bytes: the caching allocator rounds up to a multiple


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows every storage on a device from the operation that makes it until it is freed.

    Made for tensors without content (``FakeTensorMode``), whose storages have sizes and lifetimes
    and no memory.

    Args:
        device: of what is counted.

    Attributes:
        now: part → bytes alive.
        peak: ``now`` at the moment when its sum was largest.
        scalar: what ``.item()`` returns; None where that is an error.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device
        self.now: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self.scalar: int | None = None
        # Storage's address → bytes, part, and the reference that tells when it is freed.
        self._live: dict[int, tuple[int, str, weakref.ref[torch.UntypedStorage]]] = {}

    def add(self, tensor: torch.Tensor, part: str) -> None:
        """Count a tensor's storage to a part, unless it is counted already."""
        if tensor.device != self.device:
            return
        for storage in _storages(tensor):
            address = storage._cdata
            if address not in self._live:
                size = self._taken(storage.nbytes())
                freed = weakref.ref(storage, functools.partial(self._drop, address))
                self._live[address] = size, part, freed
                self.now[part] += size
        self._look(0)

    def move(self, tensor: torch.Tensor, part: str) -> None:
        """Count a tensor's storage to another part from now on."""
        for storage in _storages(tensor):
            if storage._cdata in self._live:
                size, before, freed = self._live[storage._cdata]
                self._live[storage._cdata] = size, part, freed
                self.now[before] -= size
                self.now[part] += size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count what it returns."""
        del types
        if self.scalar is not None and func is torch.ops.aten._local_scalar_dense.default:
            return self.scalar
        returned = func(*args, **(kwargs or {}))
        for tensor in tensors(returned):
            self.add(tensor, "activations")
        if self.device.type == "cpu":
            self._look(copied_bytes(func, args, returned))
        return returned

    def _look(self, inside: int) -> None:
        """Keep the peak; ``inside`` are bytes that an operation takes and frees."""
        if self.now.total() + inside >= self.peak.total():  # of equal ones the last
            self.peak = self.now.copy()
            self.peak["activations"] += inside

    def _drop(self, address: int, _freed: object) -> None:
        size, part, _ = self._live.pop(address)
        self.now[part] -= size

    def _taken(self, size: int) -> int:
        block = _CUDA_BLOCK if self.device.type == "cuda" else 1
        return math.ceil(size / block) * block


def tensors(nested: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in mappings, lists and tuples, nested as deep as you like."""
    if isinstance(nested, torch.Tensor):
        yield nested
    elif isinstance(nested, Mapping):
        for value in nested.values():
            yield from tensors(value)
    elif isinstance(nested, list | tuple):
        for value in nested:
            yield from tensors(value)


def _storages(tensor: torch.Tensor) -> list[torch.UntypedStorage]:
    if tensor.layout is torch.sparse_coo:
        held = (tensor._indices(), tensor._values())
        return [part.untyped_storage() for part in held]
    return [tensor.untyped_storage()]

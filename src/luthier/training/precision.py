"""Where and in which arithmetic a model runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import nn


@contextlib.contextmanager
def reproducible(*, strictly: bool = False) -> Iterator[None]:
    """Take the convolution kernels of an NVIDIA device that give the same bits each time.

    Args:
        strictly: let every operation raise torch's RuntimeError which has no kernel that does.
    """
    before = torch.are_deterministic_algorithms_enabled()
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        torch.use_deterministic_algorithms(before or strictly)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)


@dataclass(frozen=True)
class Precision:
    """Device, arithmetic and memory format of a model.

    Attributes:
        device: such as "cpu" or "cuda:0".
        name: "fp32", or "bf16" for autocast to bfloat16 with fp32 weights.

    Images are kept channels-last, in which convolutions are fastest on CPUs and tensor cores.
    """

    device: str
    name: str = "fp32"

    @property
    def dtype(self) -> torch.dtype:
        """In which most is computed."""
        return torch.float32 if self.name == "fp32" else torch.bfloat16

    def place(self, tensor: torch.Tensor) -> torch.Tensor:
        """Bring a batch to the device; images become channels-last."""
        if tensor.ndim == 4:
            return tensor.to(self.device, memory_format=torch.channels_last, non_blocking=True)
        return tensor.to(self.device, non_blocking=True)

    def prepare(self, model: nn.Module) -> nn.Module:
        """Bring a model to the device; the weights of convolutions become channels-last."""
        return model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def autocast(self) -> AbstractContextManager[object]:
        """Compute in this precision inside."""
        if self.name == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(torch.device(self.device).type, torch.bfloat16)

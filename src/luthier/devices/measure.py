"""What the machine does well, measured on the model itself."""

from __future__ import annotations

import contextlib
import functools
import time

import torch
from torch import nn

from luthier.modes import kept_modes

# Images where much of a model learns, and where little does: going forward alone takes a fifth of
# the time, and gains less with few images.
_LEARNING, _FROZEN = 4, 16
_CLEAR = 1.5
_SMALL = 1e7  # multiplications an image: in fewer, little can be gained


def bf16_speedup(
    model: nn.Module, image_size: int, device: str, *, images: int | None = None
) -> float | None:
    """Return how many times as fast as in fp32 a model runs under autocast to bfloat16.

    What asks for gradients is run backward too, as in training: there bf16 may be slower though it
    is faster forward, as with depthwise convolutions. Nothing of the model is changed, and no
    randomness is drawn: layers are in evaluation mode inside. Each precision is warmed up, and
    then measured once where that is clear, and twice where it is not.

    Args:
        model: on its device.
        image_size: edge of the images, in pixels.
        device: where the model is.
        images: in a batch; by default a few.

    Returns:
        None for a model so small that chance would decide.
    """
    if images is None:
        sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
        learning = sum(size for size, learns in sizes if learns)
        images = _LEARNING if 10 * learning > sum(size for size, _ in sizes) else _FROZEN
    batch = torch.zeros(images, 3, image_size, image_size, device=device)
    batch = batch.to(memory_format=torch.channels_last)
    with kept_modes(model):
        model.eval()
        if _products(model, batch[:1]) < _SMALL:
            return None
        one = functools.partial(_pair, model, batch)
        one()  # kernels are made, and memory is taken
        pairs = [one()]
        if 1 / _CLEAR < pairs[0][0] / pairs[0][1] < _CLEAR:
            pairs.append(one())
    full, half = min(full for full, _ in pairs), min(half for _, half in pairs)
    return full / half


def _pair(model: nn.Module, batch: torch.Tensor) -> tuple[float, float]:
    """Return the seconds in fp32 and in bf16."""
    return _seconds(model, batch), _seconds(model, batch, bf16=True)


@torch.no_grad()
def _products(model: nn.Module, image: torch.Tensor) -> int:
    """Return the multiplications of a model's convolutions and linear layers for an image."""
    counts = []

    def count(layer: nn.Module, _given: object, output: torch.Tensor) -> None:
        outputs = output.shape[-1 if isinstance(layer, nn.Linear) else 1]
        counts.append(layer.get_parameter("weight").numel() * output.numel() // outputs)

    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    layers = [layer for layer in model.modules() if isinstance(layer, kinds)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        model(image)
    finally:
        for hook in hooks:
            hook.remove()
    return sum(counts)


def _seconds(model: nn.Module, batch: torch.Tensor, *, bf16: bool = False) -> float:
    learning = [p for p in model.parameters() if p.requires_grad]
    began = time.perf_counter()
    with torch.autocast(batch.device.type, torch.bfloat16) if bf16 else contextlib.nullcontext():
        scores = model(batch)
    if learning and scores.requires_grad:
        torch.autograd.grad(scores.float().sum(), learning, allow_unused=True)
    return time.perf_counter() - began

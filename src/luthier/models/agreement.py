"""The proof that a split stands for its model: scores and gradients compared."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from luthier.models.prefix import Split, own
from luthier.modes import kept_modes
from luthier.randomness import kept_randomness, seed_generators


@dataclass(frozen=True)
class Difference:
    """How far a split is from its model, in scores and in gradients.

    Attributes:
        found: the larger root mean square of the differences, in parts of the model's own.
        allowed: the most that rounding explains.
        reason: what was wrong before anything could be compared, or "".
    """

    found: float
    allowed: float
    reason: str = ""

    @property
    def explained(self) -> bool:
        """Whether the split may stand for the model."""
        return not self.reason and self.found <= self.allowed

    def __str__(self) -> str:
        return self.reason or (
            f"they differ by {self.found:.1e} of their size, rounding explains {self.allowed:.1e}"
        )


def check_split(split: Split, model: nn.Module, images: torch.Tensor) -> Difference:
    """Compare a split with its model: scores and gradients as it is now, scores in evaluation.

    The yardstick is how far the model itself is taken from its float32 results: by autocast in
    bfloat16, else by a change of the images in their last bits. The model's values and modes and
    the global generators are afterwards as they were.

    Args:
        split: of this model as it is now.
        model: on its device.
        images: a few, as the model takes them.
    """
    images = images.contiguous(memory_format=torch.channels_last)  # dropout draws in this order
    try:
        with kept_modes(model), kept_randomness():
            seed_generators(1)
            features = split.features(images)
            seed_generators(2)
            if not all(map(_equal, features, split.features(images))):
                return Difference(math.inf, 0.0, "the frozen part gives other features each time")
            pairs = _distances(split, model, images, features)
            model.eval()
            pairs += _distances(split, model, images, features)
    except Exception as error:  # such as arithmetic that this machine has not got
        return Difference(math.inf, 0.0, f"{type(error).__name__}: {error}")
    return Difference(*max(pairs, key=lambda pair: pair[0] / pair[1]))


def _equal(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)


def _distances(
    split: Split, model: nn.Module, images: torch.Tensor, features: tuple[torch.Tensor, ...]
) -> list[tuple[float, float]]:
    """Return how far scores are apart and how far is allowed, and the same of gradients."""
    learning = [p for p in model.parameters() if p.requires_grad]
    run = functools.partial(_outcome, learning=learning)
    mine = run(split.rest_now, features, dtype=split.dtype)
    exact = run(model, (images,), dtype=torch.float32)
    if split.dtype == torch.float32:
        plain = run(model, (images * (1 + 2**-20),), dtype=torch.float32)
    else:
        plain = run(model, (images,), dtype=split.dtype)
    rounding = math.sqrt(torch.finfo(split.dtype).eps) / 4
    floors = rounding, max(rounding, 2**-6)  # a rectifier that just opens moves a gradient far
    return [
        (_apart(one, wanted), min(floor + 4 * _apart(like, wanted), most))
        for one, wanted, like, floor, most in zip(mine, exact, plain, floors, (0.5, 1), strict=True)
    ]


def _outcome(
    module: nn.Module, inputs: tuple[Any, ...], learning: list[nn.Parameter], dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scores and the gradient of a fixed mix of them, on copies of the buffers."""
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    device = inputs[0].device.type
    seed_generators(0)
    autocast = torch.autocast(device, dtype, enabled=dtype != torch.float32)
    given = tuple(map(own, inputs))
    with torch.enable_grad():  # a caller may validate
        with autocast:
            scores = torch.func.functional_call(module, buffers, given).float()
        mix = torch.linspace(-1, 1, scores.numel(), device=scores.device).view_as(scores)
        gradients = torch.autograd.grad((scores * mix).sum(), learning, allow_unused=True)
    flat = [g.float().flatten() for g in gradients if g is not None]
    return scores.detach().flatten(), torch.cat(flat)


def _apart(found: torch.Tensor, wanted: torch.Tensor) -> float:
    if found.shape != wanted.shape:
        return math.inf
    distance, size = float((found - wanted).norm()), float(wanted.norm())
    if not distance <= size * 1e9:  # not a number, or something in place of nothing
        return math.inf
    return distance / size if distance else 0.0

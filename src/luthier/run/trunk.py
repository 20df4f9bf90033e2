"""The model up to the input of its head, for a probe."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from luthier import models
from luthier.errors import ModelError
from luthier.models import Head
from luthier.run.forward import is_trusted
from luthier.training import Precision


class Trunk:
    """The model up to the input of its head, made fast where that changes nothing but rounding.

    Args:
        model: on its device, in evaluation mode, with a head that ``check_head`` accepts.
        head: its head, the only part that learns.
        precision: where and in which arithmetic it runs.
        few: photos on its device, to compare the fast way with the plain one.
        say: is told where the fast way is not taken.
    """

    def __init__(
        self,
        model: nn.Module,
        head: Head,
        precision: Precision,
        few: torch.Tensor,
        say: Callable[[str], object],
    ) -> None:
        self._model, self._head, self._precision = model, head, precision
        split = models.split_frozen(model, precision.dtype)
        if split is not None and not (
            split.whole and is_trusted(split, model, precision, few, say)
        ):
            split = None
        self._split = split

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return what the head sees of a batch: float32 ``[batch, features]``, on the CPU."""
        placed = self._precision.place(images)
        if self._split is not None:
            (found,) = self._split.features(placed)
        else:
            found = heard(self._model, self._head, self._precision, placed)[0][0]
        return found.float().cpu()


@torch.no_grad()
def heard(
    model: nn.Module, head: Head, precision: Precision, images: torch.Tensor
) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
    """Return what went into the head at each call, what came out of it, and the model's scores."""
    seen: list[torch.Tensor] = []
    given: list[torch.Tensor] = []

    def hear(_module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        seen.append(inputs[0])
        given.append(output)

    hook = model.get_submodule(head.name).register_forward_hook(hear)
    try:
        with precision.autocast():
            return seen, given, model(precision.place(images))
    finally:
        hook.remove()


def _numbers(size: int) -> torch.Tensor:
    """Return two images to try a model on: float32 ``[2, 3, size, size]``."""
    return torch.linspace(-2, 2, 2 * 3 * size * size).view(2, 3, size, size)


def check_head(model: nn.Module, head: Head, precision: Precision, size: int) -> None:
    """Send two images through the model: its scores must be those of its head, of flat features.

    Raises:
        ModelError: a regression on the head's input would not be what the model computes.
    """
    layer = model.get_submodule(head.name)
    seen, given, scores = heard(model, head, precision, _numbers(size))
    if not isinstance(layer, nn.Linear):
        why = f"its head {head.name!r} is a {type(layer).__name__}"
    elif len(seen) != 1 or seen[0].ndim != 2:
        shapes = ", ".join(str(tuple(s.shape)) for s in seen)
        why = f"its head {head.name!r} sees {shapes} of two images, expected (2, features)"
    elif not torch.equal(scores, given[0]):
        why = f"it changes what its head {head.name!r} gives"
    else:
        return
    raise ModelError(
        f"--strategy probe fits a Linear that is the last layer of {type(model).__name__}, but"
        f" {why}",
        cure="take --strategy frozen",
    )

"""Activations that are computed again in the backward pass instead of being kept."""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from luthier.errors import ModelError
from luthier.modes import kept_modes
from luthier.randomness import kept_randomness

_LARGE, _SMALL = 0.1, 0.01  # parts of what a pass of the model keeps for its backward
_IMAGES = 2  # batch normalisation cannot learn from one


def recomputed(
    model: nn.Module, shape: tuple[int, int, int]
) -> dict[nn.Module, Callable[..., Any]]:
    """Return how the blocks of a model compute in a step; see ``Learner``.

    What a block has computed is let go of and computed again when its gradient is asked for, with
    the same random numbers. Weights, gradients and buffers are the same, bit for bit.

    Args:
        model: whole.
        shape: of an image: ``(channels, height, width)``.

    Raises:
        ModelError: it has no blocks.
    """
    blocks = blocks_of(model, shape)
    if not blocks:
        raise ModelError(
            f"--checkpoint-activations has no effect: {type(model).__name__} has no modules made of"
            " others, which could be computed again one at a time",
            cure="leave it out",
        )
    return {block: functools.partial(_compute, block, block.forward) for block in blocks}


def _compute(block: nn.Module, forward: Callable[..., Any], *given: Any, **named: Any) -> Any:
    again = functools.partial(_kept_buffers, block)
    contexts = lambda: (contextlib.nullcontext(), again())  # noqa: E731 - two lines for one
    return checkpoint(forward, *given, use_reentrant=False, context_fn=contexts, **named)


@contextlib.contextmanager
def _kept_buffers(block: nn.Module) -> Iterator[None]:
    """Undo what a second pass leaves, such as in running statistics."""
    before = [(buffer, buffer.clone()) for buffer in block.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)


def blocks_of(model: nn.Module, shape: tuple[int, int, int]) -> list[nn.Module]:
    """Return the modules to be computed again one at a time, in the model's order.

    They are modules made of others: one layer alone keeps its input, and so it would then. One with
    more than a tenth of what the model keeps is opened up, where its children that are made of
    others have the half of it; one with less than a hundredth is left as it is.

    Args:
        model: whole.
        shape: of an image.
    """
    kept, calls = _kept(model, shape)

    def size(module: nn.Module) -> int:
        return kept[module] if calls[module] else sum(map(size, module.children()))

    def opened(module: nn.Module) -> list[nn.Module]:
        inner = [child for child in module.children() if _is_made_of_others(child)]
        large = size(module) > _LARGE * total and sum(map(size, inner)) > size(module) / 2
        if large or calls[module] != 1 or module is model:
            return [block for child in inner for block in opened(child)]
        return [module] if size(module) >= _SMALL * total else []

    total = size(model)
    return opened(model)


def _is_made_of_others(module: nn.Module) -> bool:
    return any(True for child in module.children() for _ in child.parameters())


def _kept(
    model: nn.Module, shape: tuple[int, int, int]
) -> tuple[Counter[nn.Module], Counter[nn.Module]]:
    """Return the bytes that each module keeps for a backward pass, and how often it is called."""
    kept: Counter[nn.Module] = Counter()
    calls: Counter[nn.Module] = Counter()
    seen = {p.untyped_storage().data_ptr() for p in model.parameters()}
    total = 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal total
        place = tensor.untyped_storage().data_ptr()
        if place not in seen:
            seen.add(place)
            total += tensor.untyped_storage().nbytes()
        return tensor

    def begin(module: nn.Module, _given: object) -> None:
        kept[module] -= total

    def end(module: nn.Module, _given: object, _made: object) -> None:
        kept[module] += total
        calls[module] += 1

    images = torch.zeros((_IMAGES, *shape), device=next(model.parameters()).device)
    with contextlib.ExitStack() as ends:
        for module in model.modules():
            ends.callback(module.register_forward_pre_hook(begin).remove)
            ends.callback(module.register_forward_hook(end).remove)
        for undone in (kept_modes(model), kept_randomness(), _kept_buffers(model)):
            ends.enter_context(undone)
        ends.enter_context(torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept))
        model.train()
        model(images.requires_grad_())  # so that what is frozen now counts as well
    return kept, calls

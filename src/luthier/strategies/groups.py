"""Rates of blocks → modes of modules and groups of an optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from luthier.strategies.policy import Rate
from luthier.values import Block

Group = dict[str, Any]


def apply_rates(model: nn.Module, blocks: Sequence[Block], rates: Sequence[Rate]) -> None:
    """Put each block in the mode that its rate asks for.

    A block that learns is in training mode. One that does not (rate ``None`` or 0) is in
    evaluation mode, so that running statistics do not drift. Only a frozen one (``None``) is
    taken out of the gradient.
    """
    model.train()
    named = dict(model.named_parameters())
    for block, rate in zip(blocks, rates, strict=True):
        for name in block.parameters:
            named[name].requires_grad_(rate is not None)
        if not rate:
            for name in block.modules:
                model.get_submodule(name).eval()


def decayed_names(model: nn.Module, block: Block) -> list[str]:
    """Return the parameters of a block that weight decay pulls: not its norms and biases."""
    named = dict(model.named_parameters())
    return [name for name in block.parameters if named[name].ndim >= 2]


def new_groups(
    model: nn.Module,
    blocks: Sequence[Block],
    rates: Sequence[Rate],
    before: Sequence[Rate] | None = None,
    *,
    weight_decay: float = 0.0,
) -> list[Group]:
    """Return the optimizer groups of the blocks that learn now and did not ``before``.

    Each block gives up to two groups: norms and biases (tensors of fewer than two dimensions)
    are left out of weight decay. A block with rate 0 has no weight decay either, so that
    nothing moves it. Groups carry ``rate`` (their part of the head's learning rate) and
    ``names``, in the order of ``params``.
    """
    named = dict(model.named_parameters())
    earlier = before or (None,) * len(blocks)
    groups: list[Group] = []
    for block, rate, old in zip(blocks, rates, earlier, strict=True):
        if rate is None or old is not None:
            continue
        decayed = weight_decay if rate else 0.0
        wide = decayed_names(model, block)
        flat = [n for n in block.parameters if named[n].ndim < 2]
        for names, decay in ((wide, decayed), (flat, 0.0)):
            if names:
                params = [named[n] for n in names]
                groups.append(
                    {"params": params, "names": names, "rate": rate, "weight_decay": decay}
                )
    return groups

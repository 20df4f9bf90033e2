"""Strategies as small values: how fast each block learns in each epoch. Pure.

A *rate* is a block's learning rate as a part of the head's. ``None`` means frozen: the block
asks for no gradient, is not in the optimizer, and its normalisation layers do not move. ``0.0``
means that gradients are computed and the optimizer holds the block, but does not move it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

Rate = float | None


class Policy(Protocol):
    """How fast each block learns."""

    def rates(self, trunk_blocks: int, epoch: int) -> tuple[Rate, ...]:
        """Return the rate of each trunk block, from the input up, and of the head, last."""
        ...


@dataclass(frozen=True)
class Uniform:
    """All blocks learn at one rate (full fine-tuning, and training from scratch)."""

    def rates(self, trunk_blocks: int, epoch: int) -> tuple[Rate, ...]:  # noqa: ARG002
        """See ``Policy.rates``."""
        return (1.0,) * (trunk_blocks + 1)


@dataclass(frozen=True)
class Trunk:
    """The trunk learns at one rate and the head at its own.

    ``None`` is a frozen trunk, with a head that learns step by step or is fitted (linear probing),
    ``0.0`` the zero-lr form of it, anything
    between discriminative learning rates (Howard and Ruder 2018).
    """

    rate: Rate

    def rates(self, trunk_blocks: int, epoch: int) -> tuple[Rate, ...]:  # noqa: ARG002
        """See ``Policy.rates``."""
        return (*(self.rate,) * trunk_blocks, 1.0)


@dataclass(frozen=True)
class Layerwise:
    """Each block learns ``decay`` times as fast as the one above (layer-wise lr decay)."""

    decay: float

    def rates(self, trunk_blocks: int, epoch: int) -> tuple[Rate, ...]:  # noqa: ARG002
        """See ``Policy.rates``."""
        return tuple(self.decay ** (trunk_blocks - i) for i in range(trunk_blocks + 1))


@dataclass(frozen=True)
class HeadFirst:
    """LP-FT (Kumar et al. 2022): the head alone for ``head_epochs``, then everything."""

    head_epochs: int

    def rates(self, trunk_blocks: int, epoch: int) -> tuple[Rate, ...]:
        """See ``Policy.rates``."""
        rate: Rate = None if epoch < self.head_epochs else 1.0
        return (*(rate,) * trunk_blocks, 1.0)


@dataclass(frozen=True)
class Gradual:
    """Unfreeze from the top (Howard and Ruder 2018), evenly over ``unfreeze_epochs``.

    The first epoch trains the head; in epoch ``unfreeze_epochs`` the last block joins.
    """

    unfreeze_epochs: int

    def rates(self, trunk_blocks: int, epoch: int) -> tuple[Rate, ...]:
        """See ``Policy.rates``."""
        part = min(epoch, self.unfreeze_epochs) * trunk_blocks
        learning = -(-part // self.unfreeze_epochs)  # rounded up
        frozen: tuple[Rate, ...] = (None,) * (trunk_blocks - learning)
        return (*frozen, *(1.0,) * (learning + 1))


def policy_of(strategy: str, settings: Mapping[str, Any]) -> Policy:
    """Return the policy value of a strategy's name and its settings (as in the recipe)."""
    makers: dict[str, Callable[[], Policy]] = {
        "scratch": Uniform,
        "full": Uniform,
        "frozen": lambda: Trunk(None),
        "probe": lambda: Trunk(None),
        "zero-lr": lambda: Trunk(0.0),
        "discriminative": lambda: Trunk(settings["trunk_lr_scale"]),
        "layerwise": lambda: Layerwise(settings["layer_decay"]),
        "lp-ft": lambda: HeadFirst(settings["head_epochs"]),
        "gradual": lambda: Gradual(settings["unfreeze_epochs"]),
    }
    if strategy not in makers:
        raise ValueError(f"unknown strategy {strategy!r}")
    return makers[strategy]()


def frozen_blocks(policy: Policy, trunk_blocks: int, epochs: int) -> frozenset[int]:
    """Return the indices of the blocks that must not move in the whole run."""
    seen = [policy.rates(trunk_blocks, epoch) for epoch in range(epochs)]
    return frozenset(i for i in range(trunk_blocks + 1) if not any(rates[i] for rates in seen))

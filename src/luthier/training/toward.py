"""Weight decay toward where the weights started, instead of toward zero."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from luthier.distributed.pieces import cut_like, is_cut, put

KEY = "decay_to_start"  # of an optimizer's group; its own weight_decay is 0 then


class TowardStart:
    """Pulls parameters toward their start: L2-SP (Li, Grandvalet and Davoine 2018).

    Each optimizer pulls as it does to zero: SGD by the gradient ``decay * (w - start)``, AdamW by
    ``lr * decay * (w - start)`` beside its own step (Loshchilov and Hutter 2019).

    Args:
        model: its parameters are pulled.
        starts: by the parameter's name; kept as the parameter is held, and may be saved as
            ``tensors``.
    """

    def __init__(self, model: nn.Module, starts: Mapping[str, torch.Tensor]) -> None:
        named = dict(model.named_parameters())
        self.tensors = {
            name: cut_like(named[name], start) if is_cut(named[name]) else start
            for name, start in starts.items()
        }
        self._starts = {named[name]: start for name, start in self.tensors.items()}

    def claim(self, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Take the decay of groups over from their optimizer, where all their start is known.

        Args:
            groups: with ``weight_decay`` and ``params``, before an optimizer has them.
        """
        return [
            group | {"weight_decay": 0.0, KEY: group["weight_decay"]}
            if group["weight_decay"] and all(p in self._starts for p in group["params"])
            else group
            for group in groups
        ]

    @torch.no_grad()
    def pull_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        """Add the pull to the gradients, of an optimizer whose decay is part of them.

        To be called before its step, and after the gradient was clipped.
        """
        if isinstance(optimizer, torch.optim.AdamW):
            return
        for parameter, away, group in self._pulled(optimizer):
            assert parameter.grad is not None  # noqa: S101 - _pulled gives no other
            parameter.grad.add_(away, alpha=group[KEY])

    @torch.no_grad()
    def pull_weights(self, optimizer: torch.optim.Optimizer) -> None:
        """Pull the weights themselves, of an optimizer that decays beside its step.

        To be called after its step: before it, a copy of the weights may be under way.
        """
        if not isinstance(optimizer, torch.optim.AdamW):
            return
        for parameter, away, group in self._pulled(optimizer):
            parameter.sub_(away, alpha=group["lr"] * group[KEY])

    def _pulled(
        self, optimizer: torch.optim.Optimizer
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, dict[str, Any]]]:
        for group in optimizer.param_groups:
            for parameter in group["params"] if group.get(KEY) else ():
                if parameter.grad is not None:
                    # From the difference, which is exact near the start: there nothing moves.
                    yield parameter, parameter - self._starts[parameter], group

    @torch.no_grad()
    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Put the starts of a checkpoint back."""
        for name, start in self.tensors.items():
            put(start, tensors[name])

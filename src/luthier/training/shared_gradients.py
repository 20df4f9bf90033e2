"""Gradients of a loop of one's own, added up over processes before its optimizer steps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from luthier.distributed import World
from luthier.training.buckets import anywhere, as_the_first, buckets


class SharedGradients:
    """What makes the steps of several processes those of one, whose batch is all of theirs.

    The caller's loss is a mean over this process's part of a batch. Before a watched optimizer
    steps, gradients are weighted by the images of each part and added up; then buffers, such as
    the statistics of batch normalisation, become those of the first process. A model inside of a
    ``DistributedDataParallel`` has its gradients added by that, weighted likewise.

    Args:
        world: the processes; more than one.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._mine = self._all = 0  # samples since the last step
        self._share = 1.0  # of the last batch
        self._parallel: set[torch.Tensor] = set()  # whose gradients DDP adds up
        self._modules: list[nn.Module] = []

    def add_batch(self, mine: int, everyone: int) -> None:
        """Take note of a batch that is given to the loop: samples of it here, and in all."""
        self._mine, self._all = self._mine + mine, self._all + everyone
        self._share = mine / everyone

    def watch(self, modules: Iterable[nn.Module], optimizers: Iterable[Any]) -> None:
        """Add gradients up before these optimizers step, and keep these modules' buffers alike."""
        for module in modules:
            self._modules.append(module)
            if isinstance(module, DistributedDataParallel):
                self._parallel |= set(module.parameters())
                module.register_comm_hook(None, self._weighted)
        for optimizer in optimizers:
            optimizer.register_step_pre_hook(self._before_step)
            optimizer.register_step_post_hook(self._after_step)

    def _weighted(self, _state: object, bucket: Any) -> torch.futures.Future[torch.Tensor]:
        gradients = bucket.buffer().mul_(self._share)
        waiting = contextlib.ExitStack()
        if bucket.is_last():  # this process has done its part
            waiting.enter_context(self._world.exchanging())
        work = dist.all_reduce(gradients, async_op=True).get_future()

        def summed(done: Any) -> torch.Tensor:
            waiting.close()
            result: torch.Tensor = done.value()[0]
            return result

        added: torch.futures.Future[torch.Tensor] = work.then(summed)
        return added

    @torch.no_grad()
    def _before_step(self, optimizer: torch.optim.Optimizer, *_facts: object) -> None:
        weights = [
            weight
            for group in optimizer.param_groups
            for weight in group["params"]
            if weight.requires_grad and weight not in self._parallel
        ]
        with self._world.exchanging():
            self._add_up(weights)
            alone = [m for m in self._modules if not isinstance(m, DistributedDataParallel)]
            as_the_first([buffer for module in alone for buffer in module.buffers()])

    def _after_step(self, *_facts: object) -> None:
        self._mine = self._all = 0

    def _add_up(self, weights: list[torch.Tensor]) -> None:
        if not weights:
            return
        # Not every process may have had to do with every parameter.
        used = anywhere(weights, [weight.grad is not None for weight in weights])
        for weight in used:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        for alike in buckets(used):
            flat = torch.cat([w.grad.reshape(-1) for w in alike if w.grad is not None])
            flat.mul_(self._mine / self._all if self._all else 1 / self._world.size)
            dist.all_reduce(flat)
            parts = torch.split(flat, [weight.numel() for weight in alike])
            for weight, part in zip(alike, parts, strict=True):
                if weight.grad is not None:
                    weight.grad.copy_(part.view_as(weight))


# DDP looks at what its hook says that it takes; here that would be a text.
SharedGradients._weighted.__annotations__ |= {
    "bucket": dist.GradBucket,  # type: ignore[attr-defined]
    "return": torch.futures.Future[torch.Tensor],
}

"""Copies of a model in several processes that take the same steps (PyTorch's DDP)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from luthier.distributed import World
from luthier.training.buckets import as_the_first
from luthier.training.synced_norms import SyncedNorms
from luthier.training.team import DUMMIES, Part, Work


class Replicas:
    """This process's copy of a model, and the gradients of all of them.

    A backward pass leaves in each copy the sum of what all have added to their gradients. What is
    summed in which order depends on nothing but the model and what of it learns, so that a run
    that is continued gives the bits of one that was not.

    Args:
        model: on its device, the same in all processes; its buffers become those of the first.
        forward: images → scores by the model's parameters.
        world: the processes; more than one.
        shape: of an image: ``(channels, height, width)``.
        norms: what takes its statistics from the whole batch.
    """

    def __init__(
        self,
        model: nn.Module,
        forward: Callable[[torch.Tensor], torch.Tensor],
        world: World,
        shape: tuple[int, int, int],
        norms: SyncedNorms | None = None,
    ) -> None:
        self._model, self._forward, self._shape = model, forward, shape
        # The mean over processes is what DDP makes of gradients.
        self._world = world
        self._part = Part(world, self._scores, world.size, alone_first=True, norms=norms)
        self._parallel: DistributedDataParallel | None = None

    def enter(self) -> None:
        """Take note that other parts of the model learn from now on."""
        self._parallel = None

    def learn(
        self, work: Work, images: torch.Tensor, labels: torch.Tensor, size: int, *, last: bool
    ) -> tuple[float, int]:
        """Add the gradient of a batch; see ``Team``."""
        # Before random numbers are drawn for the batch: to get ready takes a pass.
        parallel = self._ready()
        with contextlib.nullcontext() if last else parallel.no_sync():
            return self._part.learn(work, images, labels, size)

    def _scores(self, images: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self._ready()(images)
        return scores

    @torch.no_grad()
    def settle(self, more: Iterable[torch.Tensor] = ()) -> None:
        """Let every copy have the buffers of the first process, as a checkpoint has.

        Args:
            more: tensors that are to become the first process's too, such as averages of buffers.
        """
        with self._world.exchanging():
            as_the_first([*self._model.buffers(), *more])

    def _ready(self) -> DistributedDataParallel:
        if self._parallel is None:
            self._parallel = self._wrapped()
        return self._parallel

    def _wrapped(self) -> DistributedDataParallel:
        scores = _Scores(self._model, self._forward)
        weights = {p: p.grad for p in self._model.parameters() if p.requires_grad}
        with self._as_before(weights), self._world.exchanging():  # statistics of norms
            self._try(scores)
            unused = any(p.grad is None for p in weights)
        with self._as_before(weights), self._world.exchanging():
            parallel = DistributedDataParallel(scores, find_unused_parameters=unused)
            # DDP orders its sums anew after its first pass, by when gradients came. That pass is
            # this one, so that the first step after a restart sums as any other step does.
            self._try(parallel)
        return parallel

    def _try(self, module: nn.Module) -> None:
        device = next(self._model.parameters()).device
        images = torch.zeros((DUMMIES, *self._shape), device=device)
        images = images.contiguous(memory_format=torch.channels_last)
        (module(images).float().sum() * 0).backward()

    @contextlib.contextmanager
    def _as_before(self, weights: dict[nn.Parameter, torch.Tensor | None]) -> Iterator[None]:
        """Undo what a pass inside leaves in the model."""
        kept = [(buffer, buffer.clone()) for buffer in self._model.buffers()]
        for weight in weights:
            weight.grad = None
        try:
            yield
        finally:
            for weight, gradient in weights.items():
                weight.grad = gradient
            with torch.no_grad():
                for buffer, before in kept:
                    buffer.copy_(before)


class _Scores(nn.Module):
    """What DDP is given: the way that scores come about, with the model's parameters in it."""

    def __init__(self, model: nn.Module, forward: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.model, self._forward = model, forward

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self._forward(images)

"""Copies of a model in several processes that take the same steps (PyTorch's DDP)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from luthier.distributed import World
from luthier.training.buckets import as_the_first
from luthier.training.team import Work, finite

_DUMMIES = 2  # images: batch normalisation cannot learn from one


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
    """

    def __init__(
        self,
        model: nn.Module,
        forward: Callable[[torch.Tensor], torch.Tensor],
        world: World,
        shape: tuple[int, int, int],
    ) -> None:
        self._model, self._forward, self._world, self._shape = model, forward, world, shape
        self._parallel: DistributedDataParallel | None = None

    def enter(self) -> None:
        """Take note that other parts of the model learn from now on."""
        self._parallel = None

    def learn(
        self, work: Work, images: torch.Tensor, labels: torch.Tensor, size: int, *, last: bool
    ) -> tuple[float, int]:
        """Add the gradient of a batch; see ``Team``."""
        count = len(labels)
        shown, answers = work.ready(images, labels, self._world.rank)
        if not count:  # gradients are exchanged by all or by none
            shown = shown.new_zeros((_DUMMIES, *shown.shape[1:]))
            answers = labels.new_zeros(_DUMMIES, device=shown.device)
        with contextlib.nullcontext() if last else self._ready().no_sync():
            with self._world.exchanging():  # buffers; a device may wait for the step before as well
                loss, right = work.loss(shown, answers, self._scores)
                mine = (count, loss.item() * count, right) if count else (0, 0, 0)
            told = self._world.gather(mine)
            whole = sum(n for n, _, _ in told)
            value = finite(sum(part for _, part, _ in told) / whole, work.number)
            # The mean over processes is what DDP makes of gradients.
            self._world.backward(loss * (count * self._world.size / size))
        return value, int(sum(n for _, _, n in told))

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
        with self._as_before(weights):
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
        images = torch.zeros((_DUMMIES, *self._shape), device=device)
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

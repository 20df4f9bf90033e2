"""What the step loop and those who share its steps ask of each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from luthier.distributed import World
from luthier.errors import DivergedError
from luthier.training.synced_norms import SyncedNorms

Forward = Callable[[torch.Tensor], torch.Tensor]
Pair = tuple[torch.Tensor, torch.Tensor]

DUMMIES = 2  # images: batch normalisation cannot learn from one


class Work(Protocol):
    """One batch's work, on whatever part of it."""

    @property
    def number(self) -> int:
        """Of the batch, from the start of the run."""
        ...

    def ready(self, images: torch.Tensor, labels: torch.Tensor, rank: int) -> Pair:
        """Return a part as the model is to see it, drawn for a rank: placed, mixed."""
        ...

    def loss(
        self, images: torch.Tensor, targets: torch.Tensor, forward: Forward | None = None
    ) -> tuple[torch.Tensor, int]:
        """Return the mean loss of what is ready, and how many of it are right."""
        ...


class Team(Protocol):
    """Processes, or pieces, that take a step together."""

    def learn(
        self, work: Work, images: torch.Tensor, labels: torch.Tensor, size: int, *, last: bool
    ) -> tuple[float, int]:
        """Add the gradient of a batch, of which this process has a part.

        Args:
            work: how its parts are computed.
            images: of this process's part.
            labels: likewise.
            size: images in all batches of the step, in all processes.
            last: this is the step's last batch.

        Returns:
            the mean loss of the whole batch, and how many of it are right.

        Raises:
            DivergedError: the loss is not finite, in all processes at once.
            PeerError: another process is gone.
        """
        ...


def finite(loss: float, number: int, where: Callable[[], object] = lambda: None) -> float:
    """Return the loss of a batch.

    Args:
        loss: of it.
        number: of the batch in the run, from 0.
        where: tells what is not finite, if that is known.

    Raises:
        DivergedError: it is no finite number.
    """
    if not math.isfinite(loss):
        cause = where()
        why = "" if cause is None else f": {cause}"
        raise DivergedError(
            f"the loss became {loss} in batch {number + 1} of the run{why}",
            cure="lower --lr, or give --clip-norm 1; the last checkpoint is still good",
        )
    return loss


@dataclass(frozen=True)
class Part:
    """What a process does with its part of each batch.

    Attributes:
        world: the processes; more than one.
        forward: images → scores, exchanging with the others what it takes.
        scale: of the gradients before they are exchanged.
        alone_first: a backward pass waits for others only once all gradients of its own are there.
        norms: what takes its statistics from the whole batch.
    """

    world: World
    forward: Forward
    scale: int = 1
    alone_first: bool = False
    norms: SyncedNorms | None = None

    def learn(
        self, work: Work, images: torch.Tensor, labels: torch.Tensor, size: int
    ) -> tuple[float, int]:
        """Add the gradient of a batch; see ``Team``."""
        count = len(labels)
        shown, answers = work.ready(images, labels, self.world.rank)
        if not count:  # what is exchanged is exchanged by all or by none
            shown = shown.new_zeros((DUMMIES, *shown.shape[1:]))
            answers = labels.new_zeros(DUMMIES, device=shown.device)
        if self.norms is not None:
            self.norms.counts = count > 0
        with self.world.exchanging():  # a device may wait for the step before as well
            loss, right = work.loss(shown, answers, self.forward)
            mine = (count, loss.item() * count, right) if count else (0, 0, 0)
        told = self.world.gather(mine)
        whole = sum(n for n, _, _ in told)
        value = finite(sum(part for _, part, _ in told) / whole, work.number)
        self._backward(loss * (count * self.scale / size))
        return value, int(sum(n for _, _, n in told))

    def _backward(self, loss: torch.Tensor) -> None:
        if self.alone_first and self.norms is None:
            self.world.backward(loss)
            return
        with self.world.exchanging():
            loss.backward()  # type: ignore[no-untyped-call]

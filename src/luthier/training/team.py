"""What the step loop and those who share its steps ask of each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch

from luthier.errors import DivergedError

Forward = Callable[[torch.Tensor], torch.Tensor]
Pair = tuple[torch.Tensor, torch.Tensor]


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


def finite(loss: float, number: int) -> float:
    """Return the loss of a batch.

    Raises:
        DivergedError: it is no finite number.
    """
    if not math.isfinite(loss):
        raise DivergedError(
            f"the loss became {loss} in batch {number + 1} of the run",
            cure="lower --lr, or give --clip-norm 1; the last checkpoint is still good",
        )
    return loss

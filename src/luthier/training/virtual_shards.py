"""Steps whose bits do not depend on how many processes share them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn

from luthier.distributed import Share, World
from luthier.training.buckets import anywhere, as_the_first, buckets
from luthier.training.team import Work, finite

_Gradients = dict[nn.Parameter, torch.Tensor]


class VirtualShards:
    """A batch in a fixed number of pieces, each computed as if a process had it alone.

    Each process computes as many pieces as the others, one after the other; their gradients are
    exchanged one by one and added in the order of the pieces. So the bits are those of any other
    number of processes that divides that of the pieces, one included. Batch normalisation takes
    its statistics from each piece, and keeps those of the first.

    Args:
        model: on its device, the same in all processes.
        count: pieces of a batch.
        world: the processes; their number divides ``count``.
    """

    def __init__(self, model: nn.Module, count: int, world: World) -> None:
        self._model, self._world = model, world
        each = count // world.size
        self._mine = range(world.rank * each, (world.rank + 1) * each)

    def learn(
        self,
        work: Work,
        images: torch.Tensor,
        labels: torch.Tensor,
        size: int,
        *,
        last: bool,  # noqa: ARG002 - every batch's gradients are exchanged
    ) -> tuple[float, int]:
        """Add the gradient of a batch; see ``Team``."""
        weights = [p for p in self._model.parameters() if p.requires_grad]
        before = _taken(weights)
        buffers = list(self._model.buffers())
        untouched = [buffer.clone() for buffer in buffers]
        rows: list[tuple[float, float, float]] = []
        pieces: list[_Gradients] = []
        kept = untouched
        for place, number in enumerate(self._mine):
            # The larger pieces of a batch come first, and so they do in each part of it.
            start, stop = Share(place, len(self._mine)).bounds(len(labels))
            _set(buffers, untouched)
            row = self._compute(work, images[start:stop], labels[start:stop], number, size)
            rows.append(row)
            pieces.append(_taken(weights))
            if number == 0:
                kept = [buffer.clone() for buffer in buffers]
        told = self._world.gather([value for row in rows for value in row])
        told_rows = [row[at : at + 3] for row in told for at in range(0, len(row), 3)]
        images_in_all = sum(n for n, _, _ in told_rows)
        value = finite(sum(part for _, part, _ in told_rows) / images_in_all, work.number)
        with torch.no_grad(), self._world.exchanging():
            for weight, gradient in before.items():
                weight.grad = gradient
            self._add(weights, pieces)
            _set(buffers, kept)
            if self._world.size > 1:
                as_the_first(buffers)
        return value, int(sum(n for _, _, n in told_rows))

    def _compute(
        self, work: Work, images: torch.Tensor, labels: torch.Tensor, number: int, size: int
    ) -> tuple[float, float, float]:
        """Leave the gradient of a piece; return its images, the sum of their losses, the right."""
        if not len(labels):
            return 0.0, 0.0, 0.0
        loss, right = work.loss(*work.ready(images, labels, number))
        (loss * (len(labels) / size)).backward()  # type: ignore[no-untyped-call]
        return float(len(labels)), loss.item() * len(labels), float(right)

    def _add(self, weights: Sequence[nn.Parameter], pieces: Sequence[_Gradients]) -> None:
        for alike in buckets(self._used(weights, pieces)):
            mine = [torch.cat([_flat(piece.get(w), w) for w in alike]) for piece in pieces]
            rows = self._exchanged(torch.stack(mine))
            total = rows[0].clone()
            for row in rows[1:]:
                total += row
            parts = torch.split(total, [weight.numel() for weight in alike])
            for weight, part in zip(alike, parts, strict=True):
                # In the weight's own layout, as autograd gives it: another is rounded otherwise.
                gradient = torch.empty_like(weight).copy_(part.view_as(weight))
                weight.grad = gradient if weight.grad is None else weight.grad + gradient

    def _used(
        self, weights: Sequence[nn.Parameter], pieces: Sequence[_Gradients]
    ) -> list[nn.Parameter]:
        """Return the weights of which any piece in any process has a gradient."""
        has = [any(weight in piece for piece in pieces) for weight in weights]
        if self._world.size > 1:
            return anywhere(weights, has)
        return [weight for weight, one in zip(weights, has, strict=True) if one]

    def _exchanged(self, mine: torch.Tensor) -> torch.Tensor:
        """Return the rows of all processes, in the order of the pieces."""
        if self._world.size == 1:
            return mine
        rows = [torch.empty_like(mine) for _ in range(self._world.size)]
        dist.all_gather(rows, mine)
        return torch.cat(rows)


def _taken(weights: Sequence[nn.Parameter]) -> _Gradients:
    """Return the gradients that weights have, and leave them without."""
    found = {weight: weight.grad for weight in weights if weight.grad is not None}
    for weight in weights:
        weight.grad = None
    return found


def _set(tensors: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> None:
    with torch.no_grad():
        for tensor, value in zip(tensors, values, strict=True):
            tensor.copy_(value)


def _flat(gradient: torch.Tensor | None, weight: torch.Tensor) -> torch.Tensor:
    return weight.new_zeros(weight.numel()) if gradient is None else gradient.reshape(-1)

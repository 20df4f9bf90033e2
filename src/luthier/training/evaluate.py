"""Loss and accuracy of a model on batches it does not learn from."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.nn import functional as F

from luthier.distributed import ALONE, World
from luthier.modes import kept_modes
from luthier.training.clock import Clock
from luthier.training.microbatch import MicroBatch
from luthier.training.precision import Precision
from luthier.values import Tally


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    precision: Precision,
    clock: Clock | None = None,
    forward: Callable[[torch.Tensor], torch.Tensor] | None = None,
    micro: MicroBatch | None = None,
    world: World = ALONE,
    take: Callable[[torch.Tensor], object] | None = None,
) -> Tally:
    """Return the plain cross-entropy (no smoothing, no weights) and accuracy.

    The model is in evaluation mode inside and every module in its own mode again after.

    Args:
        model: images → scores ``[batch, classes]``.
        batches: inputs and labels.
        precision: where and in which arithmetic it runs.
        clock: is told of the time that is spent on what is not computing.
        forward: inputs → scores by parts of the model, in its place.
        micro: lets fewer images go through at once where memory runs out; None: that is an error.
        world: the processes among which whole batches go round; the result is that of one.
        take: is given the scores of each batch of this process, float32 on the host.

    Raises:
        OutOfMemoryError: memory does not hold one image.
    """
    clock, rows = clock or Clock(), []
    with kept_modes(model):
        model.eval()
        for images, labels in clock.awaited("waiting for data", batches):
            with clock.on("copying"):
                inputs, targets = precision.place(images), precision.place(labels)
            with precision.autocast():
                if micro is None:
                    scores = (forward or model)(inputs)
                else:
                    scores = micro.through(forward or model, inputs, "validation")
            scores = scores.float()
            loss = F.cross_entropy(scores, targets).item()
            if take is not None:
                take(scores.cpu())
            rows.append((loss, int((scores.argmax(1) == targets).sum()), len(labels)))
    tally = Tally()
    for mean, right, count in world.in_turn(rows):
        tally = tally.add(mean, int(right), int(count))
    return tally

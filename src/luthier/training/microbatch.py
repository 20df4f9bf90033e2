"""Micro-batches: as many images as go through a model at once, fewer where memory runs out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from luthier.errors import OutOfMemoryError, is_out_of_memory

Pair = tuple[torch.Tensor, torch.Tensor]


class MicroBatch:
    """How many images go through a model at once: all of a batch, until memory has run out.

    Then half as many, and so on. The gradients of the pieces of a batch add up to the batch's, so
    that the step is the same one (gradient accumulation); batch normalisation, in training mode,
    takes its statistics from the pieces.

    Args:
        model: whose buffers are put back where a forward pass has to be done again.
        device: whose memory it is.
        say: is told in one line.
        make_room: gives back memory that is kept for later, once it has run out.

    Attributes:
        size: images in a piece at most; None where batches go through whole.
    """

    def __init__(
        self,
        model: nn.Module,
        device: str,
        say: Callable[[str], object] = lambda _line: None,
        make_room: Callable[[], object] = lambda: None,
    ) -> None:
        self.size: int | None = None
        self._device, self._say, self._make_room = device, say, make_room
        buffers = [b for b in model.buffers() if b.numel()]
        kinds = {b.dtype for b in buffers}
        self._buffers = [[b for b in buffers if b.dtype == kind] for kind in kinds]
        self._kept = [[torch.empty_like(b) for b in alike] for alike in self._buffers]

    def cut(self, images: torch.Tensor, targets: torch.Tensor) -> list[Pair]:
        """Return the pieces of a batch, as equal as can be."""
        count = 1 if self.size is None else -(-len(images) // self.size)
        if count <= 1:
            return [(images, targets)]
        pieces = images.tensor_split(count), targets.tensor_split(count)
        return list(zip(*pieces, strict=True))

    @torch.no_grad()
    def keep(self) -> None:
        """Note what a forward pass changes in the model."""
        self._copy(self._kept, self._buffers)

    @torch.no_grad()
    def put_back(self) -> None:
        """Bring back what was noted."""
        self._copy(self._buffers, self._kept)

    def shrink(self, largest: int, during: str, error: Exception) -> None:
        """Let half as many images go through from now on.

        To be called outside of the handler of the error, which keeps alive what the failed pass
        had in memory.

        Args:
            largest: images of the largest batch in what is done again.
            during: what is done again, such as "step 3".
            error: what was raised.

        Raises:
            OutOfMemoryError: one image is too many.
        """
        before = min(largest, self.size or largest)
        if before <= 1:
            said = next(iter(str(error).splitlines()), "MemoryError")
            raise OutOfMemoryError(
                f"the memory of {self._device} does not hold one image in {during}: {said}",
                cure="lower --image-size, take a smaller --model, or let less of it learn, as with"
                " --strategy frozen; the last checkpoint is still good",
            )
        self.size = -(-before // 2)
        self._make_room()
        if torch.device(self._device).type == "cuda":
            torch.cuda.empty_cache()  # to libraries that do not ask torch for their memory
        self._say(
            f"out of memory on {self._device} in {during}: {self.size} images at a time instead of"
            f" {before} from here on; steps and their batches stay the same"
        )

    def through(
        self, forward: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, during: str
    ) -> torch.Tensor:
        """Return what a pass without gradients makes of a batch, in as many pieces as it takes.

        Raises:
            OutOfMemoryError: one image is too many.
        """
        while True:
            try:
                found = [forward(piece) for piece, _ in self.cut(images, images)]
                return found[0] if len(found) == 1 else torch.cat(found)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                met = error.with_traceback(None)
            self.shrink(len(images), during, met)

    def _copy(self, to: list[list[torch.Tensor]], of: list[list[torch.Tensor]]) -> None:
        for copies, originals in zip(to, of, strict=True):
            torch._foreach_copy_(copies, originals)

"""What a loop of one's own has to do with the other processes of its job."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from luthier import checkpoint
from luthier.checkpoint import Checkpoint
from luthier.distributed import World
from luthier.run.folder import RunFolder
from luthier.training import SharedGradients


class Peers:
    """The other processes of a loop; alone, it does nothing.

    Args:
        world: all processes.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self._gradients = SharedGradients(world) if world.size > 1 else None

    def watch(self, tracked: Iterable[Any], optimizers: Iterable[Any]) -> None:
        """Let the steps of these optimizers be those of all processes together."""
        if self._gradients is not None:
            modules = [value for value in tracked if isinstance(value, nn.Module)]
            self._gradients.watch(modules, optimizers)

    def begin_step(self, mine: int, everyone: int) -> None:
        """Take note of a batch: samples of it here, and in all."""
        if self._gradients is not None:
            self._gradients.add_batch(mine, everyone)

    def agree(self, value: int | None) -> int | None:
        """Return what the first process has; and let all know who has been asked to stop."""
        if self._gradients is None:
            return value
        told = self.world.gather([-1 if value is None else value])[0][0]
        return None if told < 0 else int(told)


def newest(folder: RunFolder, world: World) -> Checkpoint | None:
    """Return where all processes continue: at the newest checkpoint that the first finds sound."""
    found = None
    with world.together():
        if world.is_first:
            found = checkpoint.newest(folder.checkpoints)
    path = world.share(None if found is None else str(found.path))
    with world.together():
        if not world.is_first and path is not None:
            found = checkpoint.read(Path(path))
    return found

"""What a loop of one's own has to do with other processes: of its job, and of other jobs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from luthier import checkpoint, devices, distributed
from luthier.checkpoint import Checkpoint
from luthier.devices import Terms
from luthier.distributed import Share, World
from luthier.errors import RecipeError, RunFolderError
from luthier.report import Console
from luthier.run import stored
from luthier.run.folder import RunFolder, held
from luthier.storage import Claim, is_url
from luthier.training import SharedGradients

REDIRECT = "LUTHIER_RUNS"  # a folder that takes every run's place: how a script is proved


class Peers:
    """The other processes of a loop's job, and the other jobs of its machine.

    Alone, and without accelerators, it does nothing.

    Args:
        ends: gives back at its close what is taken here.
        place: the run's folder, from which the first process keeps everyone else out; or its URL.
        share: of the memory of the accelerators that the loop computes on; see ``devices.Terms``.
        console: is told what is waited for.

    Attributes:
        world: all processes.
        folder: of the run.
        claim: of its store, if it has one, in the first process.
        console: the one given, or one that is quiet in all but the first.

    Raises:
        RunFolderError: it is in use, or holds another kind of run.
        CannotWriteError: see ``held``. StorageError: see ``stored.claimed``.
    """

    def __init__(
        self,
        ends: contextlib.ExitStack,
        place: str | Path,
        share: str | int | None,
        console: Console | None,
    ) -> None:
        self._ends, self._terms = ends, Terms(share=share)
        self._leased: set[torch.device] = set()
        self.world = ends.enter_context(distributed.joined())
        self.console = console or Console(quiet=not self.world.is_first)
        self.claim: Claim | None = None
        if is_url(place) and not os.environ.get(REDIRECT):
            told = stored.claimed(str(place), self.world, self.console.say, stored.check_own_loop)
            self.folder, self.claim = ends.enter_context(told)
        else:
            self.folder = _folder(Path(place))
        with self.world.together():
            if self.world.is_first:
                ends.enter_context(held(self.folder))
        self._gradients = SharedGradients(self.world) if self.world.size > 1 else None

    @property
    def part(self) -> Share:
        """What this process has of each batch."""
        return Share(self.world.rank, self.world.size)

    def lease(self, tracked: Iterable[Any], say: Callable[[str], object]) -> None:
        """Hold the accelerators that modules are on.

        Raises:
            BusyError: another job holds one. LeaseError, RecipeError: see ``devices.hold_used``.
        """
        modules = [value for value in tracked if isinstance(value, nn.Module)]
        used = {p.device for m in modules for p in m.parameters()} - self._leased
        self._ends.enter_context(devices.hold_used(used, self._terms, say))
        self._leased |= used

    def watch(self, tracked: Iterable[Any]) -> None:
        """Let the steps of these optimizers, with these modules, be those of all processes.

        Raises:
            RecipeError: a gradient scaler would decide in each process for itself.
        """
        if self._gradients is None:
            return
        every = list(tracked)
        modules = [value for value in every if isinstance(value, nn.Module)]
        scaled = any(isinstance(value, torch.amp.GradScaler) for value in every)
        if scaled and not all(isinstance(m, DistributedDataParallel) for m in modules):
            raise RecipeError(
                "a GradScaler skips the steps whose gradients overflow, and would do so in one"
                f" process and not in another of {self.world.size}",
                cure="wrap the model in DistributedDataParallel, or use bfloat16, which needs none",
            )
        self._gradients.watch(modules, [v for v in every if isinstance(v, torch.optim.Optimizer)])

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
    name = world.share(None if found is None else found.path.name)
    with world.together():
        if not world.is_first and name is not None:
            found = checkpoint.read(folder.checkpoints / name)
    return found


def _folder(path: Path) -> RunFolder:
    redirected = os.environ.get(REDIRECT)
    if redirected:
        # The whole path as one name: a program may have runs of one name in several folders.
        path = Path(redirected) / "-".join(p for p in path.parts if p.strip("./"))
    folder = RunFolder(path.resolve())
    if folder.recipe.exists():
        raise RunFolderError(
            f"{path} holds a run of luthier finetune",
            cure="give another folder, or: luthier resume",
        )
    if folder.path.exists() and not folder.path.is_dir():
        raise RunFolderError(f"{path} is a file, expected a folder")
    return folder

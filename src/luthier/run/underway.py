"""What a job under way in its folder is, however it learns."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from luthier import devices, recipe, report, strategies, training
from luthier.checkpoint import Checkpoint, Saver
from luthier.distributed.pieces import whole_at
from luthier.errors import PeerError
from luthier.files import durable, writing
from luthier.recipe import decided
from luthier.report import Console
from luthier.run import page, predictions, results
from luthier.run.folder import Metrics, RunFolder
from luthier.run.job import Job, batches_of, keep_photos_in
from luthier.run.predictions import Predictions
from luthier.run.progress import Progress
from luthier.run.trace import open_trace
from luthier.run.writers import Writers
from luthier.training import Clock, MicroBatch
from luthier.values import Score, Tally
from luthier.weights.save import stored_of

_FEW = 4


class Underway:
    """A job under way in its folder.

    Args:
        job: ready to start.
        folder: exists, with its recipe.
        console: told of what is done.
        shuffle: give the training photos an order of its own in each epoch.

    Attributes:
        epochs: how many there are in all.
        progress: where it stands.
        clock: where its time goes.
        train: batches of what is learned from.
        val: batches of what is validated on.
    """

    def __init__(
        self, job: Job, folder: RunFolder, console: Console, *, shuffle: bool = True
    ) -> None:
        self.job, self.folder, self.console = job, folder, console
        how = job.recipe.training
        self.epochs = how.epochs or 1  # a probe has no number of them, and saves once
        self.progress = Progress(start=strategies.digests(job.model.state_dict()))
        self.clock = Clock()
        self._micro = MicroBatch(
            job.model, job.chosen.device.value, console.say, devices.give_freed_memory_back
        )
        self._trace = open_trace(folder.path) if job.world.is_first else None
        self._before = 0.0
        self._began: float | None = None
        self._spent: dict[str, float] = {}
        self.train, self.val = batches_of(job, shuffle=shuffle)
        self._frozen = strategies.frozen_blocks(job.policy, len(job.blocks) - 1, self.epochs)
        self._saver = Saver(
            folder.checkpoints,
            keep=how.keep or 1,
            patience=60 * decided(how.disk_patience),
            say=console.say,
            at_once=job.is_cut,  # rows are collected while nothing else is exchanged
            writes=job.world.is_first or job.is_cut,
            board=job.world.board() if job.is_cut else None,
        )

    @property
    def seconds(self) -> float:
        """Seconds of work so far, earlier sessions included as far as they were saved."""
        return self._before + (time.monotonic() - self._began if self._began is not None else 0.0)

    def _take_back(self, saved: Checkpoint) -> None:
        """Stand where a checkpoint stands, but for its tensors."""
        with saved.reading():
            self.progress = Progress.from_dict(dict(saved.state))
            self._before = saved.manifest["seconds"]
        self._micro.size = self.progress.micro
        self._saver.continue_from(saved)

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        """Do the work inside; say where the time went, and end what is beside it."""
        path = self.folder.metrics if self.job.world.is_first else None
        self._metrics = self._saver.patiently(
            "metrics.jsonl", lambda: Metrics(path, self.progress.lines)
        )
        keep_photos_in(self.folder.path, self.job)
        self._began = time.monotonic()
        given = recipe.values(self.job.recipe)
        with contextlib.ExitStack() as ends:  # from the last to the first
            self._writers = Writers(self.job.writers, self.folder, given, self.console.say)
            ends.callback(self._writers.close)
            ends.callback(self._metrics.close)
            ends.callback(self.console.stop)
            ends.callback(self.close)
            strictly = self.job.recipe.machine.virtual_shards is not None
            try:
                with torch.random.fork_rng(devices=[]), training.reproducible(strictly=strictly):
                    yield
            except KeyboardInterrupt:
                self._saver.close(at_once=True)
                raise
            except PeerError:
                self._saver.lose_others()
                raise
            total = time.monotonic() - self._began
            self._before, self._began = self.seconds, None
            self._spent = report.spent(self.clock.seconds, total)
            self.console.say(report.time_line(self.clock.seconds, total))

    def _few(self) -> torch.Tensor:
        """Return a few photos as the model is validated on, on its device; always the same."""
        return self.job.precision.place(self.val.few(_FEW))

    def close(self) -> None:
        """End the threads, and then let go of the photos that they read."""
        with contextlib.ExitStack() as ends:  # from the last to the first
            ends.callback(self.job.decoded.close)
            ends.callback(self.val.close)
            ends.callback(self.train.close)
            ends.callback(self._saver.close)

    def _facts(self) -> dict[str, Any]:
        """Return what a checkpoint tells of the run, as plain JSON values."""
        progress = self.progress
        return {
            "epoch": progress.at.epoch,
            "seconds": self.seconds,
            "start": self.job.start,
            "data": self.job.photos.fingerprint,
            "environment": results.environment(self.job),
            "recipe": recipe.values(self.job.recipe),
            "metrics": progress.last and progress.last.as_dict(),
        }

    def _record(
        self, kind: str, epoch: int, tally: Tally, seconds: float, *, batches: int, lr: float = 0.0
    ) -> None:
        """Write a line of metrics and say it; ``batches`` are those of an epoch."""
        record = {
            "kind": kind,
            "epoch": epoch,
            "iteration": epoch * batches,
            "step": self.progress.at.step,
            "loss": tally.loss,
            "accuracy": tally.accuracy.value,
            "correct": tally.correct,
            "images": tally.images,
            "lr": lr,
            "seconds": round(seconds, 3),
        }
        self._add(record)
        self._flush()
        self.console.say(report.epoch_line(record, self.epochs, self.epochs * batches))

    def _add(self, record: dict[str, Any]) -> None:
        self._metrics.add(record)
        self._writers.write(record)

    def _flush(self) -> None:
        self._saver.patiently("metrics.jsonl", self._metrics.flush)

    def audit(self) -> strategies.Audit:
        """Compare the model with its start.

        Raises:
            FrozenMovedError: a frozen part moved.
        """
        now = strategies.digests(self.job.model.state_dict())
        return strategies.inspect_moves(self.job.blocks, self.progress.start, now, self._frozen)

    def _publish(
        self, score: Score, state: Mapping[str, torch.Tensor], scores: Sequence[torch.Tensor]
    ) -> None:
        """Write the best model, after an audit, and the scores that this process has of it."""
        self.audit()
        scores = self.job.world.batches_in_turn(scores)
        found = {name: whole_at(tensor, 0) for name, tensor in state.items()}  # by all processes
        if not self.job.world.is_first:
            return
        described, photos = results.description(self.job, score), self.job.photos
        stored = stored_of({name: t for name, t in found.items() if t is not None})
        said = Predictions(
            torch.cat(list(scores)),
            torch.tensor([sample.label for sample in photos.val]),
            score.epoch,
            photos.classes,
            photos.fingerprint,
        )

        def write() -> None:  # each names its epoch, so a kill between the two can be seen
            predictions.write(self.folder.predictions, said)
            writing.write(self.folder.model, stored, described)

        self._saver.patiently("the best model", write)

    def finish(self) -> dict[str, Any]:
        """Audit, say what moved, wrap up; write the summary and return it."""
        audit = self.audit()
        self.console.say(f"audit: {audit}")
        told = self.progress, self.seconds, audit, self._parameters()
        summary = results.summary(self.job, self.folder, *told) | {
            "time": {kind: round(seconds, 3) for kind, seconds in self._spent.items()}
        }
        with self.job.world.together():
            if self.job.world.is_first:
                self._wrap_up()
                durable.write_text(self.folder.summary, json.dumps(summary, indent=1) + "\n")
                page.write_or_say(self.folder, self.console.say)
        return summary

    def _parameters(self) -> tuple[int, int]:
        """Return how many parameters there are, and how many of them learn."""
        sizes = {name: weight.numel() for name, weight in self.job.model.named_parameters()}
        frozen = {name for i in self._frozen for name in self.job.blocks[i].parameters}
        return sum(sizes.values()), sum(size for name, size in sizes.items() if name not in frozen)

    def _wrap_up(self) -> None:
        """Do what else is due at the end, before the summary says that all is done."""
        raise NotImplementedError

"""One run, from where it stands to its end."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from luthier import checkpoint, report, strategies, training
from luthier.checkpoint import Captured, Checkpoint, State
from luthier.data import Batch
from luthier.distributed.pieces import mine
from luthier.errors import DoesNotFitError, InterruptedRunError
from luthier.files import durable
from luthier.recipe import decided, parse_interval
from luthier.report import Console
from luthier.run.folder import RunFolder
from luthier.run.forward import Forward
from luthier.run.heads import starting_weights
from luthier.run.job import Job
from luthier.run.keeper import Keeper
from luthier.run.stopping import StopRequest
from luthier.run.trace import Trace
from luthier.run.underway import Underway
from luthier.strategies import Rate
from luthier.training import (
    Learner,
    Rates,
    Replicas,
    Sharded,
    Team,
    TowardStart,
    VirtualShards,
    WeightAverage,
)
from luthier.values import Position, Score, Step, Tally

_START = "start"  # the part of a checkpoint with what weight decay pulls to


class Session(Underway):
    """A job of training steps under way in its folder.

    Args:
        job: ready to start.
        folder: exists, with its recipe.
        console: told of every epoch.

    Attributes:
        learner: takes the steps.
        sizes: the number of images in each training batch of an epoch.
    """

    def __init__(self, job: Job, folder: RunFolder, console: Console) -> None:
        super().__init__(job, folder, console)
        self.sizes = self.train.sizes()
        self._rates = job.policy.rates(len(job.blocks) - 1, 0)
        if job.recipe.machine.compile:
            training.compile_in_place(job.model)
        starts = self._starts()
        shape = 3, job.preprocessing.image_size, job.preprocessing.image_size
        sharded: Sharded | None = None
        if job.is_cut:
            parts = [name for block in job.blocks for name in block.modules]
            sharded = Sharded(job.model, parts, job.precision, job.world, shape, job.norms)
        self._forward = Forward(
            job.model, job.precision, self._few, self._micro, job.world, console.say, sharded
        )
        self._copies: Replicas | Sharded | None = sharded
        shards = job.recipe.machine.virtual_shards
        if job.world.size > 1 and shards is None and sharded is None:
            self._copies = Replicas(job.model, self._forward.scores, job.world, shape, job.norms)
        self._team: Team | None = self._copies
        if shards is not None:
            self._team = VirtualShards(job.model, shards, job.world)
        self.learner = self._make_learner(starts)
        self._names = checkpoint.names_of({"model": job.model})

    # --- building ---------------------------------------------------------------------------

    def _make_learner(self, starts: Mapping[str, torch.Tensor] | None) -> Learner:
        job, recipe = self.job, self.job.recipe
        toward = TowardStart(job.model, starts) if starts is not None else None
        groups = self._new_groups(self._rates, None, toward)
        ema = recipe.regularisation.ema
        counts = job.photos.counts()["train"].values()
        return Learner(
            model=job.model,
            optimizer=training.make_optimizer(recipe.optimizer, groups),
            criterion=training.make_criterion(
                recipe.regularisation, list(counts), job.chosen.device.value
            ),
            precision=job.precision,
            schedule=self._schedule(),
            lr=decided(recipe.optimizer.lr),
            seed=decided(recipe.training.seed),
            accumulate=decided(recipe.optimizer.accumulate),
            clip_norm=recipe.optimizer.clip_norm,
            mix=training.make_mix(recipe.regularisation, len(job.photos.classes)),
            average=WeightAverage(job.model, ema) if ema is not None else None,
            toward=toward,
            forward=self._forward.scores,
            forwards=job.recomputed | (job.norms.forwards if job.norms else {}),
            micro=self._micro if self._team is None else None,
            team=self._team,
            clock=self.clock,
        )

    def _starts(self) -> dict[str, torch.Tensor] | None:
        """Return what decay pulls to, whole, before the model is cut."""
        job = self.job
        if job.recipe.optimizer.decay_to != "start":
            return None
        blocks = [b for i, b in enumerate(job.blocks) if i not in self._frozen]
        by_name = job.recipe.model.head == "by-name"
        return starting_weights(job.model, blocks, job.head, by_name, job.match)

    def _new_groups(
        self, rates: Sequence[Rate], before: Sequence[Rate] | None, toward: TowardStart | None
    ) -> list[dict[str, Any]]:
        decay = decided(self.job.recipe.optimizer.weight_decay)
        groups = strategies.new_groups(
            self.job.model, self.job.blocks, rates, before, weight_decay=decay
        )
        return toward.claim(groups) if toward is not None else groups

    def _schedule(self) -> functools.partial[Rates]:
        accumulate = decided(self.job.recipe.optimizer.accumulate)
        per_epoch = -(-len(self.sizes) // accumulate)
        return functools.partial(
            training.rates_at,
            self.job.recipe.schedule,
            steps_per_epoch=per_epoch,
            steps=per_epoch * self.epochs,
        )

    # --- state ------------------------------------------------------------------------------

    def restore(self, saved: Checkpoint) -> None:
        """Continue where a checkpoint stands.

        Raises:
            DoesNotFitError: the checkpoint belongs to another model or optimizer.
            DamagedError: it lacks something.
        """
        with contextlib.ExitStack() as ends:
            ends.callback(self.close)
            self._restore(saved)
            ends.pop_all()

    def _restore(self, saved: Checkpoint) -> None:
        self._take_back(saved)
        checkpoint.restore_module(self.job.model, saved.part("model"))
        for epoch in range(self.progress.at.epoch + 1):
            self.enter(epoch)
        report = checkpoint.restore_optimizer(
            self.learner.optimizer, self._names, saved.part("optimizer")
        )
        training.fit_fused(self.learner.optimizer)
        if not report.complete:
            self.console.say(f"  {report}")
        if self.learner.average is not None:
            self.learner.average.load(saved.part("average").tensors)
        self._restore_start(saved)

    def _restore_start(self, saved: Checkpoint) -> None:
        toward = self.learner.toward
        if toward is None:
            return
        found = saved.parts[_START].tensors if _START in saved.parts else {}
        missing = toward.tensors.keys() - found.keys()
        if missing:
            raise DoesNotFitError(
                f"checkpoint {saved.path} does not hold where {min(missing)} started, which"
                " --decay-to start pulls to",
                cure="write the recipe's decay_to, head and strategy back, or start a new run",
            )
        toward.load(found)

    def enter(self, epoch: int) -> None:
        """Let the blocks that are due in this epoch join."""
        job = self.job
        rates = job.policy.rates(len(job.blocks) - 1, min(epoch, self.epochs - 1))
        for group in self._new_groups(rates, self._rates, self.learner.toward):
            self.learner.optimizer.add_param_group(group)
        strategies.apply_rates(job.model, job.blocks, rates)
        if rates != self._rates:
            self._forward.enter()
            if self._copies is not None:
                self._copies.enter()
        self._rates = rates

    def close(self) -> None:
        """End the threads, and let go of the processes' group."""
        try:
            super().close()
        finally:
            if isinstance(self._copies, Sharded):
                self._copies.close()

    def _capture(self) -> State:
        """Return the run's state at this moment; its tensors are the run's own."""
        self._flush()
        self.progress.lines, self.progress.micro = self._metrics.lines, self._micro.size
        progress, learner = self.progress, self.learner
        learning = checkpoint.learning_in([learner.optimizer])
        model = checkpoint.capture_module(self.job.model, learning)
        weights = [name for name, _ in self.job.model.named_parameters()]
        parts = {
            "model": replace(model, check=functools.partial(_check_finite, weights)),
            "optimizer": checkpoint.capture_optimizer(learner.optimizer, self._names),
        }
        if learner.average is not None:
            parts["average"] = Captured(
                later=learner.average.tensors, still=model.still, buffers=model.buffers
            )
        if learner.toward is not None:  # it never changes, so it is written once and then linked
            starts = learner.toward.tensors
            parts[_START] = Captured(later=starts, still=frozenset(starts))
        best = progress.at.batch == 0 and progress.stale == 0 and progress.best is not None
        return State(
            progress.at.step,
            parts,
            progress.as_dict(),
            self._facts(),
            best,
            before=self._metrics.sync,
        )

    # --- running ----------------------------------------------------------------------------

    def run(self, stop: StopRequest) -> None:
        """Train to the end, saving on the way.

        Raises:
            InterruptedRunError: ``stop`` was asked for; the state has been saved.
            DivergedError, FrozenMovedError, CannotWriteError, OSError: see the rooms.
        """
        every = parse_interval(decided(self.job.recipe.training.save_every))
        self.job.world.listen(lambda: stop.asked)
        keeper = Keeper(self._saver, every, self.job.world, self._capture, self._agree)
        self._saver.watch(self.learner.optimizer)
        with self._running():
            done = self.progress.at.epoch * sum(self.sizes) + self.progress.tally.images
            self.console.start(self.epochs * sum(self.sizes), done)
            self._score_start(keeper)
            while self.progress.at.epoch < self.epochs and not self._has_stopped_early():
                self._epoch(keeper)
            with self.clock.on("saving"):
                keeper.save()

    def _agree(self, due: bool) -> bool:
        """Return whether a save is due, in which all have a part where the model is cut."""
        return bool(self.job.world.gather([due])[0][0]) if self.job.is_cut else due

    def _score_start(self, keeper: Keeper) -> None:
        """Validate before the first step, where the head has rows of the weights' own."""
        progress = self.progress
        if self.job.recipe.model.head != "by-name" or progress.at != Position() or progress.last:
            return
        started = time.monotonic()
        tally, scores = self._validate()
        self._record("val", 0, tally, time.monotonic() - started, batches=len(self.sizes))
        progress.before = Score(0, tally.loss, tally.accuracy)
        self._judge(progress.before, scores)
        self._boundary(keeper)

    def _epoch(self, keeper: Keeper) -> None:
        progress, started = self.progress, time.monotonic()
        self.enter(progress.at.epoch)
        batches = self.train.epoch(progress.at.epoch, progress.at.batch)
        if self._trace is not None:
            batches = self._traced(batches, self._trace)
        lr = self.learner.lr
        with contextlib.closing(batches):
            for step in training.train_epoch(self.learner, batches, self.sizes, progress.at):
                lr = step.lr
                self._take(step)
                # The last step of an epoch is saved once its validation is done: one step
                # number, one state.
                if step.stepped and step.batch < len(self.sizes):
                    self._boundary(keeper)
        epoch = progress.at.epoch + 1
        told: dict[str, Any] = {"batches": len(self.sizes), "lr": lr}
        self._record("train", epoch, progress.tally, time.monotonic() - started, **told)
        started = time.monotonic()
        tally, scores = self._validate()
        self._record("val", epoch, tally, time.monotonic() - started, **told)
        self._judge(Score(epoch, tally.loss, tally.accuracy), scores)
        progress.at = Position(epoch, 0, progress.at.step)
        progress.tally = Tally()
        if progress.at.epoch < self.epochs:
            self._boundary(keeper)

    def _traced(self, batches: Generator[Batch], trace: Trace) -> Generator[Batch]:
        weights, at = self.job.model.state_dict(), self.progress.at
        weights = {name: mine(tensor) for name, tensor in weights.items()}
        for number, batch in enumerate(batches, start=at.epoch * len(self.sizes) + at.batch):
            trace.step(number, batch, weights)
            yield batch

    def _boundary(self, keeper: Keeper) -> None:
        at = self.progress.at
        with self.clock.on("saving"):
            stops = keeper.boundary(at)
        if stops:
            raise InterruptedRunError(
                f"stopped and saved at {at}",
                cure=f"continue with: luthier resume {self.folder.name}",
            )

    def _take(self, step: Step) -> None:
        progress = self.progress
        progress.at = replace(progress.at, batch=step.batch, step=step.step)
        progress.tally = progress.tally.add(step.loss, step.correct, step.images)
        self._add(
            {
                "kind": "step",
                "epoch": step.epoch + 1,
                "iteration": step.epoch * len(self.sizes) + step.batch,
                "step": step.step,
                "loss": step.loss,
                "lr": step.lr,
            }
        )
        self.console.step(step, progress.tally, self.epochs)

    def _validate(self) -> tuple[Tally, list[torch.Tensor]]:
        """Return the sums, and the scores of this process's batches."""
        scores: list[torch.Tensor] = []
        average = self.learner.average
        if self._copies is not None:
            self._copies.settle(average.buffers if average else ())
        with average.in_place_of_weights() if average else contextlib.nullcontext():
            tally = self._forward.validate(
                self.val.epoch, self.clock, self._rounds(), scores.append
            )
        return tally, scores

    def _rounds(self) -> int:
        """Return the most batches of a validation that a process has."""
        of_all = -(-len(self.job.photos.val) // decided(self.job.recipe.training.batch_size))
        return -(-of_all // self.job.world.size)

    def _judge(self, score: Score, scores: Sequence[torch.Tensor]) -> None:
        progress, average = self.progress, self.learner.average
        progress.last = score
        progress.stale += 1
        if score.better_than(progress.best):
            progress.best, progress.stale = score, 0
            with self.clock.on("saving"):
                state = average.tensors if average else self.job.model.state_dict()
                self._publish(score, state, scores)

    def _has_stopped_early(self) -> bool:
        patience = self.job.recipe.training.patience
        return patience is not None and self.progress.stale >= patience

    def _wrap_up(self) -> None:
        """Draw the curves."""
        job = self.job
        photos = Path(decided(job.recipe.data.data)).name
        title = f"{job.recipe.model.model}, {job.recipe.strategy.strategy}, on {photos}"
        with durable.new_file(self.folder.curves) as temporary:
            report.draw_curves(report.read_metrics(self.folder.metrics), temporary, title)


def _check_finite(parameters: Iterable[str], tensors: Mapping[str, torch.Tensor]) -> None:
    # Of the copied tensors those that are parameters: a buffer may hold an infinity by design.
    training.check_finite({name: tensors[name] for name in parameters if name in tensors})

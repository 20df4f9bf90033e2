"""One run of the strategy "probe": features, once for each photo and view; then a head to fit.

Features lie in the run's folder in files of ``_CHUNK`` batches. Each says by a hash what it is of:
the trunk's weights, how images are prepared and augmented, and the photos. A run that was
interrupted makes those that are missing, or are of something else by now, and ends with the same
bits. Several processes have a part of the files each; the first fits the head.

With one view an image gives the same features whether it is learned from or validated on: they are
made of all images in the listing's order, and the runs of a comparison have them in common.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from luthier import checkpoint, data, training
from luthier.checkpoint import Checkpoint, State
from luthier.data.photos import Sample
from luthier.distributed import Share
from luthier.errors import DamagedError, InterruptedRunError
from luthier.files import durable
from luthier.keys import key
from luthier.randomness import seed_generators
from luthier.recipe import decided
from luthier.report import Console
from luthier.run import conditions, features, results
from luthier.run.features import Chunk
from luthier.run.folder import RunFolder
from luthier.run.job import Job, batches_of_all
from luthier.run.stopping import StopRequest
from luthier.run.trunk import Trunk, check_head
from luthier.run.underway import Underway
from luthier.training import Probe, Shown
from luthier.values import Position, Score, Tally

_CHUNK = 16  # batches whose features are in one file
_SHOWN = 3  # damaged files that are named
_FITTING = "all features are saved; the head is fitted anew"


class Probing(Underway):
    """A job of the strategy "probe" under way in its folder.

    Args:
        job: ready to start.
        folder: exists, with its recipe.
        console: told of what is done.

    Raises:
        ModelError: see ``check_head``.
    """

    def __init__(self, job: Job, folder: RunFolder, console: Console) -> None:
        super().__init__(job, folder, console, shuffle=False)
        job.model.eval()
        check_head(job.model, job.head, job.precision, job.preprocessing.image_size)
        self._environment = results.environment(job)
        self._streams = {"train": self.train, "val": self.val}
        if self.views == 1:
            self._streams = {"all": batches_of_all(job)}

    @property
    def views(self) -> int:
        """Looks at each training photo."""
        return decided(self.job.recipe.strategy.views)

    def close(self) -> None:
        """End the threads, and then let go of the photos that they read."""
        for stream in self._streams.values():
            stream.close()
        super().close()

    def restore(self, saved: Checkpoint) -> None:
        """Take back the end of the run, which alone is in its checkpoint.

        Raises:
            DoesNotFitError: the checkpoint belongs to another model.
            DamagedError: it lacks something.
        """
        self._take_back(saved)
        checkpoint.restore_module(self.job.model, saved.part("model"))

    # --- running ----------------------------------------------------------------------------

    def run(self, stop: StopRequest) -> None:
        """Make the features, fit the head and save it.

        Raises:
            InterruptedRunError: ``stop`` was asked for; complete chunks are on the disk.
            FrozenMovedError, CannotWriteError, OSError: see the rooms.
        """
        self.job.world.listen(lambda: stop.asked)
        with self._running():
            if self.progress.at.epoch == 0:
                self._probe()

    def _probe(self) -> None:
        job, started = self.job, time.monotonic()
        chunks = [chunk for side in self._streams for chunk in self._chunks(side)]
        found, scores = self._fitted(chunks, self._made(chunks))
        batches = self.views * len(self.train.sizes())
        self.progress.at = Position(1, 0, found["iterations"])
        tally = Tally(**found["train"])
        self._record("train", 1, tally, time.monotonic() - started, batches=batches)
        tally = Tally(**found["val"])
        self._record("val", 1, tally, 0.0, batches=batches)
        score = Score(1, tally.loss, tally.accuracy)
        self.progress.best = self.progress.last = score
        self._publish(score, job.model.state_dict(), scores)
        with self.clock.on("saving"):
            self._saver.save(self._capture())
            self._saver.wait()

    def _fitted(
        self, chunks: Sequence[Chunk], there: Mapping[Chunk, torch.Tensor]
    ) -> tuple[dict[str, Any], list[torch.Tensor]]:
        """Let the first process fit the head; return what it came to, the same in all.

        The scores of the validation photos are the first one's alone, in one piece.
        """
        world, found = self.job.world, None
        scores: list[torch.Tensor] = []
        if world.is_first:
            found, given = self._fit(chunks, there)
            scores = [torch.cat(given)]
            world.gather([1.0])
        else:
            while not world.gather([0.0])[0][0]:
                self._heed(_FITTING)
        found = world.share(found)
        if world.size > 1:
            training.as_the_first(self._head.parameters())
        return dict(found), scores

    def _fit(
        self, chunks: Sequence[Chunk], there: Mapping[Chunk, torch.Tensor]
    ) -> tuple[dict[str, Any], list[torch.Tensor]]:
        """Fit the head; return its results as plain JSON, and its scores of the validation."""
        job = self.job
        sides: dict[str, list[torch.Tensor]] = {"train": [], "val": []}
        for chunk in chunks:
            made = there[chunk] if chunk in there else self._read(chunk)
            for side, blocks in sides.items():
                blocks.extend(self._rows(made, chunk, side))

        def each() -> None:
            job.world.gather([0.0])
            self._heed(_FITTING)

        with self.clock.on("fitting"):
            fit = training.fit_probe(
                self._shown(sides["train"]),
                len(job.photos.classes),
                bias=self._head.bias is not None,
                each=each,
            )
        self._say(fit, sides["train"][0].shape[1])
        with torch.no_grad():
            self._head.weight.copy_(fit.weight)
            if fit.bias is not None:
                self._head.bias.copy_(fit.bias)
        train, _ = _score(fit, sides["train"], [s.label for s in job.photos.train] * self.views)
        val, scores = _score(fit, sides["val"], [s.label for s in job.photos.val])
        return {"iterations": fit.iterations, "train": vars(train), "val": vars(val)}, scores

    @functools.cached_property
    def _trunk(self) -> Trunk:
        return Trunk(
            self.job.model, self.job.head, self.job.precision, self._few(), self.console.say
        )

    @property
    def _head(self) -> nn.Linear:
        layer = self.job.model.get_submodule(self.job.head.name)
        assert isinstance(layer, nn.Linear)  # noqa: S101 - check_head has refused others
        return layer

    def _heed(self, what: str) -> None:
        if self.job.world.asked:
            raise InterruptedRunError(
                f"stopped: {what}", cure=f"continue with: luthier resume {self.folder.name}"
            )

    # --- features ---------------------------------------------------------------------------

    def _made(self, chunks: Sequence[Chunk]) -> dict[Chunk, torch.Tensor]:
        """Make the features that are missing, a part of the files in each process.

        All exchange something before each batch and after the last file: who is asked to stop stops
        them all, and who is gone is missed.

        Returns:
            what was there before, in the first process.
        """
        world = self.job.world
        there = self._there(chunks) if world.is_first else {}
        known = world.share([chunk in there for chunk in chunks])
        missing = [chunk for chunk, is_there in zip(chunks, known, strict=True) if not is_there]
        mine = missing[slice(*Share(world.rank, world.size).bounds(len(missing)))]
        batches = sum(chunk.batches[1] - chunk.batches[0] for chunk in mine)
        rounds = int(max(most for (most,) in world.gather([batches])))
        self.console.start(sum(c.count for c in [*there, *mine]), sum(c.count for c in there))
        written = 0

        def heed() -> None:
            saved = len(chunks) - len(missing) + sum(int(n) for (n,) in world.gather([written]))
            self._heed(f"{saved} of {len(chunks)} files of features are saved")

        for run in _runs(mine):
            stream = self._streams[run[0].side]
            with contextlib.closing(stream.epoch(run[0].view, run[0].batches[0])) as source:
                for chunk in run:
                    self._write(chunk, self._compute(chunk, source, heed))
                    written += 1
        for _ in range(rounds - batches + 1):
            heed()
        self.console.stop()
        return there

    def _chunks(self, side: str) -> list[Chunk]:
        job, ends = self.job, [0]
        for size in self._streams[side].sizes():
            ends.append(ends[-1] + size)
        hashes = [e.found.sha256 for e in job.photos.inventory.readable if side in ("all", e.side)]
        how = features.hash_of(
            [self.progress.start[t] for block in job.blocks[:-1] for t in block.tensors],
            decided(job.recipe.model.model),
            job.preprocessing.as_dict(),
            decided(job.recipe.training.batch_size),
        )
        made = []
        for view in range(self.views if side == "train" else 1):
            drawn = self._drawn() if side == "train" and self.views > 1 else None
            for number, first in enumerate(range(0, len(ends) - 1, _CHUNK)):
                last = min(first + _CHUNK, len(ends) - 1)
                of = hashes[ends[first] : ends[last]]
                wanted = features.hash_of(how, drawn and [*drawn, view, ends[first]], of)
                photos = ends[first], ends[last]
                made.append(Chunk(side, view, number, (first, last), photos, wanted))
        return made

    def _drawn(self) -> list[Any]:
        how = self.job.recipe.data
        drawn = (how.augment, how.color_jitter, how.rand_augment, how.erase)
        return [decided(self.job.recipe.training.seed), *drawn]

    def _there(self, chunks: Sequence[Chunk]) -> dict[Chunk, torch.Tensor]:
        """Return the features that an earlier session has made; say what is odd about them."""
        there: dict[Chunk, torch.Tensor] = {}
        damaged: list[str] = []
        notices: dict[str, None] = {}
        for chunk in chunks:
            try:
                found = features.read(chunk.path(self.folder.features), chunk)
            except DamagedError as error:
                damaged.append(error.what)
                continue
            if found is not None:
                there[chunk] = found.features
                notices |= dict.fromkeys(
                    conditions.differences(found.environment, self._environment)
                )
        if there:
            self.console.say(f"{len(there)} of {len(chunks)} files of features are there already")
        more = [f"and {len(damaged) - _SHOWN} more"] if len(damaged) > _SHOWN else []
        for what in [*damaged[:_SHOWN], *more]:
            self.console.say(f"  made again: {what}")
        for notice in notices:
            self.console.say(f"  {notice}")
        return there

    def _compute(
        self, chunk: Chunk, batches: Iterator[data.Batch], heed: Callable[[], None]
    ) -> torch.Tensor:
        made = []
        views = self.views if chunk.side == "val" else chunk.view
        before = views * len(self.train.sizes()) + chunk.batches[0]
        weights = self.job.model.state_dict() if self._trace is not None else {}
        for number in range(before, before + chunk.batches[1] - chunk.batches[0]):
            heed()
            with self.clock.on("waiting for data"):
                batch = next(batches)
            if self._trace is not None:
                self._trace.step(number, batch, weights)
            seed_generators(key(decided(self.job.recipe.training.seed), "model", number, 0))
            made.append(self._micro.through(self._trunk.features, batch[0], "making features"))
            self.console.advance(len(batch[1]))
        return torch.cat(made)

    def _write(self, chunk: Chunk, made: torch.Tensor) -> None:
        path = chunk.path(self.folder.features)
        with self.clock.on("saving"):
            self._saver.patiently(
                "features", lambda: features.write(path, chunk, made, self._environment)
            )

    def _read(self, chunk: Chunk) -> torch.Tensor:
        path = chunk.path(self.folder.features)
        found = features.read(path, chunk)
        if found is None:
            raise DamagedError(f"{path} is gone or exchanged", cure="let nothing else write there")
        return found.features

    def _rows(self, made: torch.Tensor, chunk: Chunk, side: str) -> list[torch.Tensor]:
        """Return the features of the photos on a side, if there are any."""
        if chunk.side != "all":
            return [made] if chunk.side == side else []
        entries = self.job.photos.inventory.readable[slice(*chunk.photos)]
        rows = [row for row, entry in enumerate(entries) if entry.side == side]
        if not rows:
            return []
        if rows[-1] - rows[0] + 1 == len(rows):  # stay in their file
            return [made[rows[0] : rows[-1] + 1]]
        return [made[rows]]

    def _shown(self, train: Sequence[torch.Tensor]) -> list[Shown]:
        photos, how = self.job.photos, self.job.recipe
        labels = [sample.label for sample in photos.train]
        content = [e.found.sha256 for e in photos.inventory.on("train")]
        folds = training.folds_of(labels, content, decided(how.training.seed))
        weights = _weights(photos.train, len(photos.classes), how.regularisation.class_weights)
        columns = (
            torch.tensor(labels * self.views),
            torch.tensor(folds * self.views),
            torch.tensor(weights * self.views, dtype=torch.float64) / self.views,
        )
        shown, first = [], 0
        for block in train:
            labelled, folded, weighted = (c[first : first + len(block)] for c in columns)
            shown.append(Shown(block, labelled, folded, weighted))
            first += len(block)
        return shown

    # --- results ----------------------------------------------------------------------------

    def _say(self, fit: Probe, width: int) -> None:
        how = f"{self.views} views" if self.views > 1 else "1 view"
        by = f"chosen of {len(fit.tried)} by cross-validation" if fit.tried else "by default"
        end = "" if fit.converged else "; NOT converged"
        self.console.say(
            f"probe {width} features of {len(self.job.photos.train)} images in {how}: penalty"
            f" {fit.penalty:.3g} ({by}), {fit.iterations} iterations of L-BFGS{end}"
        )

    def _capture(self) -> State:
        self.progress.lines = self._metrics.lines
        head = {id(parameter) for parameter in self._head.parameters()}
        parts = {"model": checkpoint.capture_module(self.job.model, head)}
        plain, step = self.progress.as_dict(), self.progress.at.step
        return State(step, parts, plain, self._facts(), best=True, before=self._metrics.sync)

    def _wrap_up(self) -> None:
        """Remove the features."""
        if self.folder.features.exists() and not self.folder.shares_features:
            durable.remove_directory(self.folder.features)


def _runs(chunks: Sequence[Chunk]) -> list[list[Chunk]]:
    """Return chunks, those that follow each other in a view together."""
    runs: list[list[Chunk]] = []
    for chunk in chunks:
        last = runs[-1][-1] if runs else None
        follows = last is not None and (last.side, last.view, last.number + 1) == (
            chunk.side,
            chunk.view,
            chunk.number,
        )
        if follows:
            runs[-1].append(chunk)
        else:
            runs.append([chunk])
    return runs


def _weights(samples: Sequence[Sample], classes: int, how: str | None) -> list[float]:
    """Return how much each photo counts: 1, or as ``training.make_criterion`` weighs classes."""
    if how != "balanced":
        return [1.0] * len(samples)
    counts = [0] * classes
    for sample in samples:
        counts[sample.label] += 1
    return [len(samples) / (classes * counts[sample.label]) for sample in samples]


def _score(
    fit: Probe, shown: Sequence[torch.Tensor], labels: Sequence[int]
) -> tuple[Tally, list[torch.Tensor]]:
    """Return plain cross-entropy and accuracy of the head on features, and its scores."""
    tally, given, first = Tally(), [], 0
    for block in shown:
        of_block = torch.tensor(labels[first : first + len(block)])
        scores = nn.functional.linear(block, fit.weight, fit.bias)
        loss = nn.functional.cross_entropy(scores, of_block).item()
        tally = tally.add(loss, int((scores.argmax(1) == of_block).sum()), len(block))
        given.append(scores)
        first += len(block)
    return tally, given

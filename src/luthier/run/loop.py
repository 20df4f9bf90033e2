"""``Run``: a hand-written loop that continues after any interruption, to the same bits."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from luthier import data, randomness, training
from luthier.checkpoint import Checkpoint, Saver, State
from luthier.errors import DataError, RecipeError, RunFolderError, UnkeyedError
from luthier.keys import key
from luthier.recipe import parse_interval
from luthier.report import Console
from luthier.run import conditions, stored
from luthier.run.folder import Metrics
from luthier.run.keeper import Keeper
from luthier.run.logged import Best, plain
from luthier.run.mirror import Mirror
from luthier.run.peers import Peers, newest
from luthier.run.sources import DataSources
from luthier.run.stopping import StopRequest, listening
from luthier.run.trace import open_trace
from luthier.run.tracked import Tracked
from luthier.values import Position


class Run:
    """The state of a training loop of your own, kept in a folder.

    Start the script again after a kill, and it continues at the step after the last one saved::

        run = luthier.Run("runs/ants", seed=1, model=model, optimizer=optimizer)
        for epoch in run.epochs(25):
            for images, labels in run.batches(dataset, batch_size=16, shuffle=True):
                ...

    All randomness in the loop is a function of the seed and the position: the order of the data,
    what each sample's transform draws from Python's, numpy's and torch's generators, in any number
    of workers, and what the model draws. SIGINT, SIGTERM and SIGUSR1 save at the next step and
    leave with exit status 130.

    Args:
        folder: of the run, or its URL in a store; the same one continues it.
        seed: of everything random.
        save_every: ``"N epochs"``, ``"N steps"`` (batches), ``"N minutes"``, or ``"1%"`` of the
            run's time.
        keep: how many of the newest checkpoints stay, beside the best.
        best: ``"max NAME"`` or ``"min NAME"`` of a value given to ``log``: the state in which it
            is best is saved at once, and stays.
        disk_patience: minutes to go on trying where the disk is full.
        share: take at most so much of the memory (``"8GiB"``, or bytes) of the accelerators that
            the modules are on, beside others on the same terms. They are leased while it is open.
        at_once: let training wait while a state is copied; needed only where tensors are changed
            through ``tensor.data`` between two optimizer steps.
        console: where to say things; standard error by default.
        **tracked: modules, optimizers, schedulers, tensors, and anything else with
            ``state_dict`` and ``load_state_dict``, by name. Optimizer state is kept by parameter
            name, so the modules must be tracked too.

    Raises:
        RunFolderError: the folder is in use, or holds another kind of run.
        BusyError: others have leased the accelerator that a module is on.
        RecipeError: a module is to run on several devices by ``nn.DataParallel``.
        DoesNotFitError: what is tracked does not fit the checkpoint.
        DamagedError: there are checkpoints, and none is sound.
    """

    def __init__(  # noqa: PLR0913 - a run is told as much
        self,
        folder: str | Path,
        *,
        seed: int = 0,
        save_every: str = "1 epoch",
        keep: int = 2,
        best: str | None = None,
        disk_patience: float = 10.0,
        share: str | int | None = None,
        at_once: bool = False,
        console: Console | None = None,
        **tracked: Any,
    ) -> None:
        if keep < 1:
            raise RecipeError(f"keep={keep}: at least one checkpoint must stay")
        self._every = parse_interval(save_every)
        self._best = Best(best)
        self.seed = seed
        self._open = contextlib.ExitStack()
        try:
            self._peers = Peers(self._open, folder, share, console)
        except BaseException:
            self._open.close()
            raise
        self.folder = self._peers.folder
        self._world, self._console = self._peers.world, self._peers.console
        self._at = Position()
        self._saver = Saver(
            self.folder.checkpoints,
            keep=keep,
            patience=60 * disk_patience,
            say=self._console.say,
            at_once=at_once,
            writes=self._world.is_first,
        )
        self._stop = StopRequest(self._saver.give_up)
        self._world.listen(lambda: self._stop.asked)
        self._keeper = Keeper(self._saver, self._every, self._world, self._capture)
        self._tracked = Tracked(self._saver)
        self._sources = DataSources(seed, self._tracked.has, self._peers.part)
        self._looping = self._closed = False
        self._count = 0  # epochs or steps of the loop that is under way
        self._stopped_of: int | None = None  # how many those were when ``stop`` was called
        self._read_in: int | None = None  # the epoch whose batches have been given
        self._reading: Generator[Any] | None = None
        self._length: int | None = None  # batches of the epoch that is being read
        self._ends = 0  # of epochs that have no step number of their own
        self._found: Checkpoint | None = None
        try:
            self._begin(tracked)
        except BaseException:
            self.close()
            raise

    def _begin(self, tracked: dict[str, Any]) -> None:
        self._trace = None
        if self._world.is_first:
            self.folder.sweep()
        stored.fetch(self.folder, self._world, self._console.say)
        if self._world.is_first:
            self._console.log_to(self.folder.log)
            self._trace = open_trace(self.folder.path)
        self._found = newest(self.folder, self._world)
        lines = self._restore(self._found)
        self._open.enter_context(self._stored())
        path = self.folder.metrics if self._world.is_first else None
        self._metrics = self._saver.patiently("metrics.jsonl", lambda: Metrics(path, lines))
        self._open.callback(self._metrics.close)
        self._open.callback(self._sources.close)
        self.track(**tracked)

    def _stored(self) -> contextlib.AbstractContextManager[None]:
        claim, saver = self._peers.claim, self._saver
        if claim is None:
            return contextlib.nullcontext()
        mirror = Mirror(
            self.folder, claim, keep=saver.keep, patience=saver.patience, say=self._console.say
        )
        return mirror.following(self._stop)

    # --- state ------------------------------------------------------------------------------

    @property
    def at(self) -> Position:
        """Epochs finished, batches of the present epoch finished, steps finished."""
        return self._at

    def track(self, **tracked: Any) -> None:
        """Keep more objects, by name; where the run continues, they get their state back now.

        Raises:
            DoesNotFitError: the state does not fit. TypeError: an object that has no state.
        """
        self._check_open()
        self._peers.lease(tracked.values(), self._console.say)
        self._tracked.add(tracked, self._found)
        self._peers.watch(tracked.values())
        for line in self._tracked.notices():
            self._console.say(f"  {line}")

    def _restore(self, found: Checkpoint | None) -> int:
        """Take the position back, and return how many lines of metrics there were."""
        if found is None:
            self._console.say(f"run {self.folder.name} begins")
            return 0
        for damaged in found.passed_over:
            self._console.say(f"passed over: {damaged}")
        state = found.state
        if "position" not in state or "seed" not in state:
            raise RunFolderError(
                f"{found.path} is no checkpoint of luthier.Run",
                cure="continue it with: luthier resume; or give another folder",
            )
        if state["seed"] != self.seed:
            raise RunFolderError(
                f"run {self.folder.name} began with seed={state['seed']}, not {self.seed}",
                cure=f"give seed={state['seed']}, or another folder",
            )
        with found.reading():
            self._at = Position(**state["position"])
            self._best.value, self._length = state["best"], state["batches"]
            self._stopped_of = state["stopped_of"]
            self._ends = state.get("ends", 0)
            lines: int = state["lines"]
        self._sources.restore(found.parts)
        self._saver.continue_from(found)
        self._console.say(f"run {self.folder.name} continues at {self._at}")
        return lines

    def _flush(self) -> None:
        self._saver.patiently("metrics.jsonl", self._metrics.flush)

    def _capture(self) -> State:
        self._flush()
        parts = self._tracked.capture() | self._sources.capture()
        rest = {
            "position": vars(self._at),
            "seed": self.seed,
            "best": self._best.value,
            "batches": self._length if self._at.batch else None,
            "stopped_of": self._stopped_of,
            "ends": self._ends,
            "lines": self._metrics.lines,
        }
        facts = {
            "epoch": self._at.epoch,
            "environment": conditions.here(processes=self._world.size),
        }
        number = self._at.step + self._ends
        return State(number, parts, rest, facts, self._best.is_now, before=self._metrics.sync)

    # --- loops ------------------------------------------------------------------------------

    def epochs(self, count: int) -> Iterator[int]:
        """Give the numbers of the epochs that are left, from 0.

        An epoch's state is saved when its body has ended.

        Args:
            count: epochs of the whole run.
        """
        with self._in_loop(count):
            # An epoch that had begun when the run was stopped comes to its end.
            while self._at.epoch < count and (self._at.batch or self._stopped_of is None):
                epoch = self._at.epoch
                self._read_in, self._best.is_now = None, False
                self._seed("epoch", epoch)
                yield epoch
                self._stopped_of = self._peers.agree(self._stopped_of)
                self._end_reading()
                self._end_epoch()
                if self._goes_on(epoch + 1):
                    self._boundary()
            self._keeper.save()

    def _end_epoch(self) -> None:
        # Without a batch, or where nothing said which would be the last, the state before this
        # moment may have been saved under the same step, and a checkpoint is never replaced.
        if self._at.batch == 0 or self._length is None:
            self._ends += 1
        self._at = Position(self._at.epoch + 1, 0, self._at.step)

    def stop(self) -> None:
        """End the loop when the body of this epoch, or of this step of ``steps``, has ended.

        The state is saved then, and a later start finds the run finished, as if all its epochs
        were done. Asked for more of them than before, it goes on.

        Raises:
            UnkeyedError: no loop is under way.
        """
        if not self._looping:
            raise UnkeyedError(
                "run.stop ends a loop, and none is under way",
                cure="call it in the body of run.epochs or run.steps",
            )
        self._stopped_of = self._count

    def _goes_on(self, done: int) -> bool:
        return done < self._count and self._stopped_of is None

    def batches(
        self,
        source: Any,
        batch_size: int | None = None,
        *,
        shuffle: bool | None = None,
        **settings: Any,
    ) -> Iterator[Any]:
        """Give the batches of the present epoch that are left; those before cost no reading.

        Args:
            source: a dataset, or a ``DataLoader`` of your own, whose order and workers are then
                made functions of the seed and the position.
            batch_size: samples a batch; of a dataset.
            shuffle: give every epoch an order of its own; of a dataset.
            **settings: any other argument of ``DataLoader``.

        Raises:
            UnkeyedError: outside of ``epochs``, or twice in one epoch.
            DataError: an iterable without a position.
        """
        epoch = self._at.epoch
        if not self._looping:
            raise UnkeyedError(
                "run.batches gives the batches of an epoch, and no epoch is under way",
                cure="for epoch in run.epochs(25): for … in run.batches(…); or run.steps(N, …)",
            )
        if self._read_in == epoch:
            raise UnkeyedError(
                f"run.batches was called twice in epoch {epoch}, and one loop holds the position",
                cure="read validation data from a DataLoader of your own; of two data sets that"
                " are learned from together make one that gives both",
            )
        self._end_reading()
        self._read_in = epoch
        settings |= {"batch_size": batch_size, "shuffle": shuffle}
        loader = self._sources.batches(source, settings)
        self._reading = self._read(loader)
        yield from self._reading
        self._seed("after", epoch)

    def _end_reading(self) -> None:
        # A body may leave its batches by break, or hold on to them.
        if self._reading is not None:
            self._reading.close()

    def steps(self, count: int, source: Any = None, **settings: Any) -> Iterator[Any]:
        """Give batches, epoch after epoch, until ``count`` steps are done.

        Args:
            count: steps of the whole run.
            source: as in ``batches``; without one the numbers of the steps are given, from 0.
            **settings: as in ``batches``.

        Raises:
            DataError: an iterable without a position, or no batch in an epoch.
        """
        loader = None if source is None else self._sources.batches(source, settings)
        if loader is None and self._every.unit == "epochs":
            raise RecipeError(
                "save_every counts epochs, and run.steps without data has none",
                cure="give save_every='N steps', 'N minutes' or '1%'",
            )
        with self._in_loop(count):
            while self._goes_on(self._at.step):
                if loader is None:
                    self._begin_step(None)
                    yield self._at.step
                    self._at = Position(0, 0, self._at.step + 1)
                else:
                    yield from self._read(loader, by_steps=True)
                    if self._at.batch == 0:
                        raise DataError(
                            "an epoch of the data has no batch, so its steps would never be done",
                            cure="see whether it is empty, or drop_last leaves nothing of it",
                        )
                    if self._goes_on(self._at.step):
                        self._at = Position(self._at.epoch + 1, 0, self._at.step)
                if self._goes_on(self._at.step):
                    self._boundary()
            self._keeper.save()

    def _read(self, loader: data.KeyedBatches, *, by_steps: bool = False) -> Generator[Any]:
        epoch, first = self._at.epoch, self._at.batch
        with contextlib.closing(loader.epoch(epoch, first)) as batches:
            for number, batch in enumerate(batches, start=first):
                self._compare_length(number, loader.length)
                self._begin_step(batch)
                self._peers.begin_step(*(loader.sizes[number] if loader.sizes else (1, 1)))
                try:
                    yield batch
                finally:  # also where the body leaves by break
                    self._at = Position(epoch, number + 1, self._at.step + 1)
                if by_steps and not self._goes_on(self._at.step):
                    return
                # The last step of an epoch is saved with what follows in the epoch's body.
                if number + 1 != loader.length:
                    self._boundary()
        self._compare_length(self._at.batch, loader.length)

    def _begin_step(self, batch: Any) -> None:
        if self._trace is not None:
            self._trace.step(self._at.step, batch, self._tracked.weights())
        self._best.is_now = False
        self._seed("model", self._at.step, self._world.rank)

    def _compare_length(self, number: int, length: int | None) -> None:
        if number and self._length != length:
            self._console.say(
                f"  not the same bits: batches of epoch {self._at.epoch + 1} were"
                f" {self._length}, are {length}"
            )
        self._length = length

    def log(self, **values: Any) -> None:
        """Write one line of ``metrics.jsonl``: the position and these values.

        No line is there twice and none is missing, whatever happens to the run.

        Args:
            **values: numbers, texts, booleans, lists of them, and tensors of one element.

        Raises:
            TypeError: another value; it is named. RunFolderError: the run is closed.
        """
        self._check_open()
        record = {"kind": "log", "epoch": self._at.epoch + 1, "step": self._at.step}
        for name, value in values.items():
            if name in record:
                raise TypeError(f"log({name}=…): luthier gives {name} itself; take another name")
            record[name] = plain(name, value)
        self._best.see(record)
        self._metrics.add(record)
        self._flush()

    # --- inside -----------------------------------------------------------------------------

    @contextlib.contextmanager
    def _in_loop(self, count: int) -> Iterator[None]:
        self._check_open()
        if self._looping:
            raise UnkeyedError("a loop of this run is under way already")
        self._check_found()
        self._looping, self._count = True, count
        if self._stopped_of is not None and self._stopped_of < count:
            self._stopped_of = None
        try:
            with listening(self._stop), training.reproducible():
                yield
        except KeyboardInterrupt:
            self._saver.close(at_once=True)
            raise
        finally:
            self._looping = False

    def _check_open(self) -> None:
        # The folder may be another's by now, and the number of the open file another file's.
        if self._closed:
            raise RunFolderError(
                f"run {self.folder.name} is closed",
                cure="luthier.Run(…) of its folder continues it",
            )

    def _check_found(self) -> None:
        found, self._found = self._found, None  # its tensors have been copied
        if found is None:
            return
        self._tracked.check_complete(found)
        with found.reading():
            then = found.manifest["environment"]
        for line in conditions.differences(then, conditions.here(processes=self._world.size)):
            self._console.say(f"  {line}")

    def _seed(self, purpose: str, *position: int) -> None:
        randomness.seed_generators(key(self.seed, purpose, *position))

    def _boundary(self) -> None:
        self._stopped_of = self._peers.agree(self._stopped_of)
        stopped = self._keeper.boundary(self._at, worth=self._best.is_now)
        self._tracked.boundary()
        if stopped:
            self._console.say(
                f"stopped and saved at {self._at}; start the same script again to go on"
            )
            self.close()
            sys.exit(130)

    def close(self) -> None:
        """Complete what is being saved, end the workers and free the folder."""
        self._closed = True
        try:
            self._saver.close()
        finally:
            self._open.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._saver.close(at_once=True)
        self.close()

"""The processes that train together, as ``torchrun`` starts them, and what they agree on.

What they tell each other are numbers and JSON, over Gloo or NCCL. Nothing is pickled.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

# Whose functions keep, as a default, the group that there is when it is first imported: Gloo's
# threads would outlive the group's end, and one that needs Python's lock while the interpreter ends
# takes the process with it ("terminate called without an active exception").
import torch.distributed.nn.functional
from torch.autograd import Variable
from torch.distributed.rendezvous import rendezvous

from luthier.distributed.board import Board
from luthier.distributed.meeting import meet
from luthier.distributed.watch import Watch
from luthier.errors import LuthierError, PeerError, RecipeError

_TOLD = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# Before anything of Gloo's or NCCL's is in the text, torch has written what became of its peer.
_LOST = ("connection closed by peer", "connection reset", "connection refused", "broken pipe")
_PATIENCE = "LUTHIER_PATIENCE", 600.0  # seconds for one that is alive and does not come
_SILENCE = "LUTHIER_SILENCE", 30.0  # seconds without a sign of life
_LATE = ("timed out", "timeout")
_LETS_GO = 0.1  # seconds, of which a thread of Gloo's needs microseconds


class World:
    """All processes of a job, and which of them this is.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes (the world size).
        local_rank: number of this process on its host.
        local_size: processes on this host.
        watch: is told of every exchange.
    """

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        local_rank: int = 0,
        local_size: int = 1,
        watch: Watch | None = None,
    ) -> None:
        self.rank, self.size = rank, size
        self._watch = watch
        self.local_rank, self.local_size = local_rank, local_size
        self._asked_here: Callable[[], bool] = lambda: False
        self._asked = False

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files and says what is said."""
        return self.rank == 0

    def listen(self, asked: Callable[[], bool]) -> None:
        """Let every exchange tell whether this process has been asked to stop."""
        self._asked_here = asked

    @property
    def asked(self) -> bool:
        """Whether any process had been asked to stop at the last exchange; the same in all."""
        return self._asked_here() if self.size == 1 else self._asked

    def gather(self, numbers: Sequence[float]) -> list[list[float]]:
        """Return what each process gives, by rank; as many numbers from each, float64.

        Raises:
            PeerError: another process is gone, or does not answer.
        """
        if self.size == 1:
            return [list(numbers)]
        mine = torch.tensor([float(self._asked_here()), *numbers], dtype=torch.float64)
        rows = mine.new_empty((self.size, len(mine)))
        with self.exchanging():
            # Gloo's all_gather goes round a ring, one process after the other. This is one way to
            # the first and a tree from there.
            dist.gather(mine, list(rows) if self.is_first else None)
            dist.broadcast(rows, 0)
        told = rows.tolist()
        self._asked = any(asked for asked, *_ in told)
        return [row for _, *row in told]

    def in_turn(self, rows: Sequence[Sequence[float]]) -> list[list[float]]:
        """Return the rows of all processes: the first of each by rank, then the second of each.

        Args:
            rows: as many as the others have, or one less than those of lower rank.
        """
        if self.size == 1:
            return [list(row) for row in rows]
        shape = self.gather([len(rows), len(rows[0]) if rows else 0])
        most, width = int(max(n for n, _ in shape)), int(max(w for _, w in shape))
        flat = [number for row in rows for number in row]
        told = self.gather(flat + [0.0] * (most * width - len(flat)))
        return [
            told[rank][turn * width : (turn + 1) * width]
            for turn in range(most)
            for rank in range(self.size)
            if turn < shape[rank][0]
        ]

    def batches_in_turn(self, batches: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the batches of all processes, in the order of ``in_turn``.

        Args:
            batches: float32 ``[rows, width]`` on the host, the same width in all; as many as the
                others have, or one less than those of lower rank.

        Raises:
            PeerError: see ``gather``.
        """
        if self.size == 1:
            return list(batches)
        shapes = self.in_turn([batch.shape for batch in batches])
        all_batches: list[torch.Tensor] = []
        for turn, first in enumerate(range(0, len(shapes), self.size)):
            of_turn = shapes[first : first + self.size]  # a last turn may be without some
            padded = torch.zeros(int(max(n for n, _ in of_turn)), int(of_turn[0][1]))
            if turn < len(batches):
                padded[: len(batches[turn])] = batches[turn]
            told = [torch.empty_like(padded) for _ in range(self.size)]
            with self.exchanging():
                dist.all_gather(told, padded)
            all_batches += [rows[: int(n)] for rows, (n, _) in zip(told, of_turn, strict=False)]
        return all_batches

    def share(self, value: Any) -> Any:
        """Return what the first process gives, plain JSON; what the others give is not looked at.

        Raises:
            PeerError: see ``gather``.
        """
        if self.size == 1:
            return value
        content = json.dumps(value).encode() if self.is_first else b""
        length = int(self.gather([len(content)])[0][0])
        told = torch.frombuffer(bytearray(content.ljust(length)), dtype=torch.uint8)
        with self.exchanging():
            dist.broadcast(told, 0)
        return json.loads(told.numpy().tobytes())

    def board(self) -> Board:
        """Return a new board of the processes; all ask for it at once, and there are several.

        Raises:
            PeerError: see ``gather``.
        """
        name = self.share(secrets.token_hex(8))
        # A connection of its own: threads beside this one use it.
        group: Any = dist.distributed_c10d._get_default_store()
        prefixed = dist.distributed_c10d.PrefixStore(f"luthier/board/{name}", group.clone())
        return Board(prefixed, self.rank, self.size, _seconds(*_PATIENCE))

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Go on after the inside when all processes have come through it.

        Raises:
            PeerError: one has failed there; that one raises its own error.
        """
        try:
            yield
        except BaseException:
            if self.size > 1:
                with contextlib.suppress(PeerError):
                    self.gather([1.0])
            raise
        failed = [rank for rank, (fails,) in enumerate(self.gather([0.0])) if fails]
        if failed:
            raise PeerError(f"rank {failed[0]} has failed")

    @contextlib.contextmanager
    def exchanging(self, *, waits: bool = True) -> Iterator[None]:
        """Exchange tensors with the others inside, by whatever means of torch's.

        Who does not come in while others wait inside is named by the watch.

        Args:
            waits: from the beginning; else once ``waiting`` has been called.

        Raises:
            PeerError: another process is gone, or does not answer.
        """
        with contextlib.ExitStack() as inside:
            inside.enter_context(naming_lost_peers())
            if self._watch is not None:
                inside.enter_context(self._watch.exchange(waits=waits))
            yield

    def backward(self, loss: torch.Tensor) -> None:
        """Compute gradients that torch exchanges as they come, and at last waits for.

        Until all of its own are there, this process keeps the others waiting.

        Raises:
            PeerError: another process is gone, or does not answer.
        """
        with self.exchanging(waits=False):
            if self._watch is not None:
                # The engine calls back in the order in which it was asked: before DDP, which waits.
                ask, wait = Variable._execution_engine.queue_callback, self._watch.wait
                loss.register_hook(lambda _gradient: ask(wait))  # type: ignore[no-untyped-call]
            loss.backward()  # type: ignore[no-untyped-call]

    def come_so_far(self, *_facts: object) -> None:
        """Take note that this process is ahead of those who have not called this as often.

        It may be a hook of a module, whose arguments are not looked at.
        """
        if self._watch is not None:
            self._watch.begin()


ALONE = World()


@contextlib.contextmanager
def naming_lost_peers() -> Iterator[None]:
    """Say in luthier's words that another process is gone or does not answer.

    Raises:
        PeerError: so it is.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error).lower()
        if any(words in text for words in _LOST):
            raise PeerError("another process of this job has ended") from error
        if any(words in text for words in _LATE):
            raise PeerError(
                "another process of this job does not answer",
                cure="see what it is at; LUTHIER_PATIENCE is how many seconds are waited [600]",
            ) from error
        raise


@contextlib.contextmanager
def joined() -> Iterator[World]:
    """Join the others that ``torchrun`` has started; alone, where it has not.

    Gloo carries what lies in a host's memory, NCCL what lies on NVIDIA's devices. A process group
    that the program has made by itself is used as it is, and watched over the store that the
    environment names, if there is one.

    Raises:
        RecipeError: the environment names a process of several, and not all of where.
    """
    if dist.is_available() and dist.is_initialized():
        with _watched(_found(_seconds(*_PATIENCE), _seconds(*_SILENCE))) as world:
            yield world
        return
    told = [name for name in _TOLD if os.environ.get(name)]
    if os.environ.get("WORLD_SIZE", "1") == "1" or "RANK" not in os.environ:
        yield World()
        return
    if len(told) < len(_TOLD):
        missing = ", ".join(name for name in _TOLD if name not in told)
        raise RecipeError(
            f"the environment has {', '.join(told)}, and not {missing}",
            cure="start with torchrun, which sets them all, or unset RANK and WORLD_SIZE",
        )
    with naming_lost_peers():
        watch = _join(_seconds(*_PATIENCE), _seconds(*_SILENCE))
    try:
        with _watched(watch) as world:
            yield world
    finally:
        # A thread of Gloo's may still let go of a tensor of the last exchange, for which torch
        # takes Python's lock; the group's end has that lock while it waits for the thread.
        time.sleep(_LETS_GO)
        dist.destroy_process_group()
        gc.collect()  # cycles, such as DDP's, hold the group, and with it Gloo's threads


@contextlib.contextmanager
def _watched(watch: Watch | None) -> Iterator[World]:
    if watch is None:
        yield _world()
        return
    with watch:
        try:
            yield _world(watch)
        except LuthierError as error:
            if not isinstance(error, PeerError):
                error.is_told = not watch.is_first_to_say(str(error))
            raise


def _join(patience: float, silence: float) -> Watch:
    wait = timedelta(seconds=patience)
    store, rank, size = next(rendezvous("env://", timeout=wait))
    session = meet(store, rank, size, patience)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
        store=dist.distributed_c10d.PrefixStore(session, store),
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=patience + 2 * silence),  # the watch, which knows who, is first
    )
    return _watch(_connection(wait), session, patience, silence)


def _found(patience: float, silence: float) -> Watch | None:
    """Return a watch over the group that there is; None where not all reach one store."""
    world = _world()
    if world.size == 1:
        return None
    own = None
    with contextlib.suppress(KeyError, ValueError, RuntimeError):
        own = _connection(timedelta(seconds=silence))
    reached = all(one for (one,) in world.gather([own is not None]))
    session = world.share(secrets.token_hex(8))
    return _watch(own, session, patience, silence) if reached else None


def _connection(wait: timedelta) -> Any:
    """Return the job's store over a connection of its own: a process waits for long on others.

    Raises:
        KeyError, ValueError: the environment does not say where it is.
        RuntimeError: torch's, there is none.
    """
    where = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    kind = dist.TCPStore  # type: ignore[attr-defined]
    return kind(*where, is_master=False, wait_for_workers=False, timeout=wait)


def _watch(store: Any, session: str, patience: float, silence: float) -> Watch:
    world = _world()
    return Watch(
        dist.distributed_c10d.PrefixStore(session, store),
        world.rank,
        world.size,
        silence=silence,
        patience=patience,
        speaks=_speaks(world.rank, world.local_rank, world.local_size),
    )


def _speaks(rank: int, local_rank: int, local_size: int) -> bool:
    """Tell whether this process says on its host that the store is gone; the first may keep it."""
    on_first_host = rank == local_rank
    return local_rank == (min(1, local_size - 1) if on_first_host else 0)


def grace() -> float:
    """Return the seconds in which an earlier start of this job notices that it is cut off.

    Raises:
        RecipeError: LUTHIER_SILENCE is no number of seconds.
    """
    return 2 * _seconds(*_SILENCE)


def _seconds(name: str, default: float) -> float:
    told = os.environ.get(name, "")
    try:
        found = float(told or default)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise RecipeError(f"{name}={told}: expected a number of seconds above 0")
    return found


def _world(watch: Watch | None = None) -> World:
    local = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return World(dist.get_rank(), dist.get_world_size(), *local, watch)

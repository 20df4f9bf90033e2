"""Notices a process that is cut off, stopped or stuck, says who and where, and ends the job.

A peer's end closes its connections, and whoever waits for it fails at once. A host that is cut off
closes nothing, and a process that hangs does not either. So each process notes a few times a minute
in a store that it is alive, what it is at, and how many exchanges it has begun. The first looks at
all notes, the others look at the first's. Silence is counted in looks of one's own, so that who
was stopped itself accuses nobody. Where all wait in the same exchange, which then is not the same
to each of them, all are named; those with the same stack together.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

_LOOKS = 10  # without anything new, then it is silence
_FRAMES = 16  # of a stack, the innermost
_SHOWN = 8  # different stacks, the rarest
_PARTING = 1.0  # seconds for which the first waits for the others at the end
_PASSED = os.path.join("torch", "nn", "modules", "module.py")  # only calls what it is given
_VERDICT = "luthier/verdict"


class Store(Protocol):
    """What is used of ``torch.distributed.Store``."""

    def set(self, key: str, value: str, /) -> None:
        """Give a key a value."""
        ...

    def multi_get(self, keys: list[str], /) -> list[bytes]:
        """Return the values of keys that have some."""
        ...

    def check(self, keys: list[str], /) -> bool:
        """Tell whether all keys have a value."""
        ...

    def compare_set(self, key: str, expected: str, value: str, /) -> bytes:
        """Give a key a value if it has the expected one, or none; return what it has then."""
        ...


@dataclass(frozen=True)
class Note:
    """What a process says of itself.

    Attributes:
        beat: how often it has said something.
        begun: exchanges with the others that it has begun.
        waits: it waits for the others in the last of them.
        left: it has come to the end of its work.
        where: its host and process.
        stack: of its main thread.
    """

    beat: int
    begun: int
    waits: bool
    left: bool
    where: str
    stack: str


class Watch:
    """Threads that watch this process and its peers; whoever is missing is named, and all end.

    Args:
        store: of this start of the job, over a connection that nobody else uses.
        rank: of this process.
        size: number of processes.
        silence: seconds without a sign of life after which a process counts as lost.
        patience: seconds that a process waits for others which are alive.
        speaks: this process tells when the store itself is gone.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        size: int,
        *,
        silence: float,
        patience: float,
        speaks: bool = True,
    ) -> None:
        self._store, self._rank, self._speaks = store, rank, speaks
        self._others = [r for r in range(size) if r != rank] if rank == 0 else [0]
        self._silence, self._patience = silence, patience
        self._pause, self._looks = silence / _LOOKS, round(patience / silence * _LOOKS)
        self._where = f"on {socket.gethostname()}, process {os.getpid()}"
        self._main = threading.get_ident()
        self._beat = self._begun = self._unanswered = 0
        self._waits = False
        self._last: dict[int, Note] = {}
        self._silent: dict[int, int] = {}
        self._fewest, self._awaited = -1, 0
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Watch:
        for name, work in (("notes", self._notes), ("guard", self._guard)):
            thread = threading.Thread(target=work, name=f"luthier-{name}", daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._threads[0].join(2 * _PARTING)  # it may be asking a store that does not answer

    @contextlib.contextmanager
    def exchange(self, *, waits: bool = True) -> Iterator[None]:
        """Exchange something with the others inside.

        Args:
            waits: from the beginning; else once ``wait`` has been called.
        """
        before = self._waits
        self.begin()
        self._waits = waits
        try:
            yield
        finally:
            self._waits = before

    def begin(self) -> None:
        """Take note that what has to come before the next exchange is done."""
        self._begun += 1

    def wait(self) -> None:
        """Take note that this process has done its part of the exchange that it is in."""
        self._waits = True

    def is_first_to_say(self, text: str) -> bool:
        """Tell whether no other process has asked this about the same text; the first is let by."""
        time.sleep(_PARTING / 5 if self._rank else 0)
        key = f"luthier/said/{hashlib.sha256(text.encode()).hexdigest()}"
        try:
            return self._store.compare_set(key, "", str(self._rank)).decode() == str(self._rank)
        except RuntimeError:  # torch's, of a store that is gone
            return True

    def _notes(self) -> None:
        try:
            while not self._stop.is_set():
                self._say(left=False)
                self._look()
                self._unanswered = 0
                self._stop.wait(self._pause)
            self._part()
        except RuntimeError:  # torch's, of a store that is gone; whoever waits for its keeper fails
            if not self._has_left(0) and not self._stop.wait(self._silence / 2):
                self._end(self._lone("is gone: who kept it has ended"))
            self._stop.set()

    def _part(self) -> None:
        """Say that this process has come to its end; the first, which may have the store, waits."""
        self._say(left=True)
        until = time.monotonic() + (_PARTING if self._rank == 0 else 0.0)
        while time.monotonic() < until and not all(map(self._has_left, self._others)):
            time.sleep(0.02)
            self._look()

    def _guard(self) -> None:
        while not self._stop.wait(self._pause):
            self._unanswered += 1
            if self._unanswered > _LOOKS:
                silence = f"{self._silence:.0f} s (LUTHIER_SILENCE)"
                what = "its host or this is cut off, or rank 0 is stopped"
                self._end(self._lone(f"has not answered for {silence}: {what}"))

    def _lone(self, what: str) -> str:
        if not self._speaks:
            return ""
        told = f"the store of this job {what} (noticed {self._where})"
        return told + (self._seen(0) if 0 in self._last else "")

    def _say(self, left: bool) -> None:
        self._beat += 1
        frame = sys._current_frames().get(self._main)
        calls = [c for c in traceback.extract_stack(frame) if not c.filename.endswith(_PASSED)]
        stack = "".join(traceback.format_list(calls[-_FRAMES:]))
        note = Note(self._beat, self._begun, self._waits, left, self._where, stack)
        self._store.set(_key(self._rank), json.dumps(asdict(note)))
        self._last[self._rank] = note

    def _look(self) -> None:
        if not self._stop.is_set() and self._store.check([_VERDICT]):
            self._end("", wait=True)
        known = [r for r in self._others if r in self._last or self._store.check([_key(r)])]
        notes = self._store.multi_get([_key(r) for r in known]) if known else []
        for rank, note in zip(known, (Note(**json.loads(note)) for note in notes), strict=True):
            alive = rank not in self._last or self._last[rank].beat != note.beat or note.left
            self._silent[rank] = 0 if alive else self._silent.get(rank, 0) + 1
            self._last[rank] = note
        if self._stop.is_set():
            return
        silent = [rank for rank in known if self._silent[rank] > _LOOKS]
        if silent:
            self._judge(silent, f"not been heard of for {self._silence:.0f} s (LUTHIER_SILENCE)")
        elif self._rank == 0 and (stuck := self._stuck()):
            waited = f"{self._patience:.0f} s (LUTHIER_PATIENCE)"
            self._judge(stuck, f"kept the others waiting for {waited}")

    def _stuck(self) -> Sequence[int]:
        """Return who has not come to an exchange in which others have waited for too long."""
        begun = {rank: note.begun for rank, note in self._last.items() if not note.left}
        fewest, most = min(begun.values()), max(begun.values())
        waiting = any(self._last[r].waits for r, n in begun.items() if n == most)
        same = waiting and fewest == self._fewest
        self._fewest, self._awaited = fewest, self._awaited + 1 if same else 0
        if self._awaited <= self._looks:
            return []
        last = [rank for rank, n in begun.items() if n == fewest]
        return [rank for rank in last if not self._last[rank].waits] or last

    def _judge(self, ranks: Sequence[int], what: str) -> None:
        told = [f"rank {rank} ({self._last[rank].where}) has {what}" for rank in ranks]
        text = "\n".join(told) + self._seen(*ranks)
        # Several may come to this at once: the first to write it says it.
        mine = f"{self._rank} {text}"
        said = self._store.compare_set(_VERDICT, "", mine).decode()
        # The first may keep the store, in which the others are yet to read this.
        self._end(text if said == mine else "", wait=self._rank == 0)

    def _seen(self, *ranks: int) -> str:
        """Return where ranks were last seen: those at the same place at once, the fewest first."""
        alike: dict[str, list[int]] = {}
        for rank in ranks:
            alike.setdefault(self._last[rank].stack.rstrip(), []).append(rank)
        places = sorted(alike.items(), key=lambda place: len(place[1]))
        told = [f"\n{named(who)} last seen at:\n{stack}" for stack, who in places[:_SHOWN]]
        more = len(places) - len(told)
        return "".join(told) + (f"\nand others at {more} more places" if more else "")

    def _has_left(self, rank: int) -> bool:
        return rank in self._last and self._last[rank].left

    def _end(self, text: str, wait: bool = False) -> None:
        """End this process in whatever call its main thread is, which nothing could interrupt.

        Args:
            text: to say before, or nothing.
            wait: until all others have looked once more.
        """
        with contextlib.suppress(OSError, ValueError):
            if text:
                print(f"luthier, rank {self._rank}: {text}", file=sys.stderr)
            sys.stdout.flush()
            sys.stderr.flush()
        time.sleep(1.5 * self._pause if wait else 0)
        os._exit(1)  # what it was writing is whole or not at all, as after any kill


def named(ranks: Sequence[int]) -> str:
    """Return "rank 3 was", "ranks 0 to 6, 9 were": for many, in order."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    told = ", ".join(f"{r[0]} to {r[-1]}" if len(r) > 1 else f"{r[0]}" for r in runs)
    return f"ranks {told} were" if len(ranks) > 1 else f"rank {told} was"


def _key(rank: int) -> str:
    return f"luthier/note/{rank}"

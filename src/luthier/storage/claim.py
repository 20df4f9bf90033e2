"""Who writes to a store: a claim that is renewed, since stores of objects have no locks.

What that guarantees, and what not, is in ``docs/storage.md``.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace

from luthier.errors import DamagedError, RunFolderError, StorageError
from luthier.storage.bucket import Bucket

NAME = ".claim"
_FORMAT = 1
_OLD = 10  # times the grace: longer than the clocks of two machines differ
_RENEWALS = 6  # in one grace
_SETTLE = 1.0  # seconds in which the write of another who took the same claim arrives


@dataclass(frozen=True)
class Stamp:
    """What the claim of a run says.

    Attributes:
        run: names the run, as long as it lives.
        token: of the holder; empty when nobody has it.
        host: of the holder.
        process: likewise, its number.
        job: likewise, its job of ``torchrun``.
        time: when it was renewed, seconds since 1970.
    """

    run: str
    token: str
    host: str
    process: int
    job: str | None
    time: float

    def is_free(self, now: float, grace: float) -> bool:
        """Tell whether it may be taken over without a look at whether it is renewed."""
        return not self.token or now - self.time > _OLD * grace

    def to_json(self) -> bytes:
        """Return the claim's content."""
        return json.dumps({"format": _FORMAT, **asdict(self)}).encode() + b"\n"


def read(bucket: Bucket) -> Stamp | None:
    """Return what a claim says, and None where there is none.

    Raises:
        DamagedError: it is none of luthier's. StorageError: it cannot be read.
    """
    try:
        said = json.loads(bucket.read(NAME))
        if said.pop("format") != _FORMAT or not str(said["run"]).isalnum():
            raise ValueError("another format")
        return Stamp(**said)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(
            f"{bucket.url}/{NAME} is no claim of luthier's",
            cure="once nobody is at work there, remove that object",
        ) from error


class Claim:
    """A claim that is held, and renewed on a thread of its own.

    Args:
        bucket: which is claimed.
        stamp: that has been written there.
        grace: seconds without a renewal after which others take it over.
    """

    def __init__(self, bucket: Bucket, stamp: Stamp, grace: float) -> None:
        self.bucket, self._stamp, self._grace = bucket, stamp, grace
        self._taken_by: Stamp | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="luthier-claim", daemon=True)
        self._thread.start()
        atexit.register(self.release)  # a loop's program may end without a word

    @property
    def run(self) -> str:
        """Names the run."""
        return self._stamp.run

    def check(self, *, now: bool = False) -> None:
        """Raise an error if it is lost.

        Args:
            now: look; else the last renewal tells.

        Raises:
            RunFolderError: another has it. StorageError: nobody knows.
        """
        if now and self._taken_by is None:
            self._look()
        if self._taken_by is not None:
            raise RunFolderError(
                f"run {self.bucket.url} was taken over by {_who(self._taken_by)}",
                cure="let one of the two go on; this one stores nothing there any more",
            )

    def release(self) -> None:
        """End the renewals, and let the next one have it at once."""
        if self._end.is_set():  # at the interpreter's end, by when fsspec would wait for ever
            return
        atexit.unregister(self.release)
        self._end.set()
        self._thread.join()
        with contextlib.suppress(StorageError, DamagedError):  # then it grows old
            self._look()
            if self._taken_by is None:
                self._write(replace(self._stamp, token=""))

    def _look(self) -> None:
        found = read(self.bucket)
        if found is None or found.token != self._stamp.token:
            self._taken_by = found or replace(self._stamp, host="someone", process=0)

    def _renew(self) -> None:
        while not self._end.wait(self._grace / _RENEWALS) and self._taken_by is None:
            with contextlib.suppress(StorageError, DamagedError):  # whoever writes finds out too
                self._look()
                if self._taken_by is None:
                    self._write(self._stamp)

    def _write(self, stamp: Stamp) -> None:
        self.bucket.write(NAME, replace(stamp, time=time.time()).to_json())


@contextlib.contextmanager
def held(
    bucket: Bucket, grace: float, job: str | None, say: Callable[[str], object]
) -> Iterator[Claim]:
    """Hold the claim of a store; one that its holder has left is taken over.

    Args:
        bucket: to be claimed.
        grace: seconds in which a holder that is alive renews it.
        job: of ``torchrun``, whose earlier start may still be coming to its end.
        say: is told what is waited for.

    Raises:
        RunFolderError: another is at work there. StorageError: the store refuses.
    """
    claim = Claim(bucket, _taken(bucket, grace, job, say), grace)
    try:
        yield claim
    finally:
        claim.release()


def _taken(bucket: Bucket, grace: float, job: str | None, say: Callable[[str], object]) -> Stamp:
    token, run = secrets.token_hex(8), secrets.token_hex(4)
    mine = Stamp(run, token, socket.gethostname(), os.getpid(), job, time.time())
    found = read(bucket)
    if found is None and bucket.create(NAME, mine.to_json()):
        return _confirmed(bucket, mine)
    found = found or read(bucket)
    if found is not None and not found.is_free(time.time(), grace):
        say(f"{bucket.url} was in use by {_who(found)}: waiting whether it still is")
        found = _left(bucket, found, grace, job)
    mine = replace(mine, run=found.run if found is not None else run, time=time.time())
    bucket.write(NAME, mine.to_json())
    return _confirmed(bucket, mine)


def _left(bucket: Bucket, found: Stamp, grace: float, job: str | None) -> Stamp | None:
    """Return a claim that its holder has left; by no clock but this machine's."""
    started = changed = time.monotonic()
    while time.monotonic() - changed < grace:
        time.sleep(min(1.0, grace / _RENEWALS / 2))
        now = read(bucket)
        if now is None or not now.token:
            return now
        if now == found:
            continue
        is_own = job is not None and now.job == job and time.monotonic() - started < 2 * grace
        if not is_own:
            raise RunFolderError(
                f"run {bucket.url} is in use by {_who(now)}, who has just renewed its claim",
                cure="wait for its end, or stop it with SIGTERM; once it is dead its claim is"
                f" taken over after {grace:.0f} s",
            )
        found, changed = now, time.monotonic()
    return found


def _confirmed(bucket: Bucket, mine: Stamp) -> Stamp:
    # Of two who wrote at once each may have seen its own; the later write stays.
    time.sleep(_SETTLE)
    found = read(bucket)
    if found is None or found.token != mine.token:
        who = _who(found) if found is not None else "another"
        raise RunFolderError(
            f"run {bucket.url} was claimed at the same moment by {who}", cure="start one of them"
        )
    return mine


def _who(stamp: Stamp) -> str:
    return f"process {stamp.process} on {stamp.host}"

"""What the processes of a job tell each other beside the training, on threads of their own.

Exchanges of the process group are for the thread that trains, and all take part in each. Here one
leaves a word in the job's store, and who needs it looks for it.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from typing import Any, Protocol

from luthier.errors import PeerError

_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.05  # seconds between two looks


class Store(Protocol):
    """What is used of ``torch.distributed.Store``."""

    def set(self, key: str, value: str, /) -> None:
        """Give a key a value."""
        ...

    def get(self, key: str, /) -> bytes:
        """Return a key's value."""
        ...

    def check(self, keys: list[str], /) -> bool:
        """Tell whether all keys have a value."""
        ...

    def delete_key(self, key: str, /) -> bool:
        """Forget a key."""
        ...


class Board:
    """Words under names that all processes of a job see.

    Args:
        store: that all share, over a connection for this alone.
        rank: of this process.
        size: number of processes.
        patience: seconds to wait for a word of another.
    """

    def __init__(self, store: Store, rank: int, size: int, patience: float) -> None:
        self.rank, self.size, self.patience = rank, size, patience
        self._store = store
        self._given_up = threading.Event()

    def say(self, name: str, word: Any) -> None:
        """Leave a word, plain JSON, for the others.

        Raises:
            PeerError: the store is gone.
        """
        with _naming_lost_store():
            self._store.set(name, json.dumps(word))

    def hear(self, name: str, patience: float | None = None) -> Any:
        """Return a word of another process; wait for it.

        Args:
            name: of the word.
            patience: seconds to wait instead of the board's.

        Raises:
            PeerError: it does not come, is not waited for any longer, or the store is gone.
        """
        patience = self.patience if patience is None else patience
        until, pause = time.monotonic() + patience, _FIRST_PAUSE
        with _naming_lost_store():
            while not self._store.check([name]):
                if self._given_up.wait(pause):
                    raise PeerError("the other processes of this job are not waited for any longer")
                if time.monotonic() > until:
                    raise PeerError(
                        f"another process of this job has said nothing for {patience:.0f} s",
                        cure="see what it is at; LUTHIER_PATIENCE is how many seconds are waited",
                    )
                pause = min(2 * pause, _LONGEST_PAUSE)
            return json.loads(self._store.get(name))

    def forget(self, name: str) -> None:
        """Remove a word that nobody will ask for any more.

        Raises:
            PeerError: the store is gone.
        """
        with _naming_lost_store():
            self._store.delete_key(name)

    def give_up(self) -> None:
        """Wait no longer for words that have not come; a signal handler may call this."""
        self._given_up.set()


@contextlib.contextmanager
def _naming_lost_store() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch's
        raise PeerError("the store of this job is gone: who kept it has ended") from error

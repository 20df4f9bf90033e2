"""How the processes of one start of a job find each other, and no process of an earlier start.

An elastic agent starts the processes of a job anew when one is lost, or a host comes. They may
find the store as those before left it, whose addresses are those of the dead: PyTorch's process
group takes them for the living. And nothing in the environment tells one start from another where
hosts have come and gone. So they meet: each says a word that it has just made up, and the first
repeats all of them.
"""

from __future__ import annotations

import json
import secrets
import time
from typing import Protocol

from luthier.errors import PeerError

_SESSION = "luthier/session"
_PAUSE = 0.01  # seconds
_SHARE = 0.0005  # seconds for each process: all ask one store


class Store(Protocol):
    """What is used of ``torch.distributed.Store``."""

    def set(self, key: str, value: str, /) -> None:
        """Give a key a value."""
        ...

    def get(self, key: str, /) -> bytes:
        """Return a key's value; wait for it."""
        ...

    def check(self, keys: list[str], /) -> bool:
        """Tell whether all keys have a value."""
        ...


def meet(store: Store, rank: int, size: int, patience: float) -> str:
    """Return a name that the processes of this start have, and those of no other.

    Args:
        store: that all processes share; it may hold what earlier starts left.
        rank: of this process.
        size: number of processes.
        patience: seconds to wait for the others.

    Raises:
        PeerError: they do not come.
    """
    until = time.monotonic() + patience
    pause = max(_PAUSE, size * _SHARE)
    return _call(store, size, until, pause) if rank == 0 else _answer(store, rank, until, pause)


def _call(store: Store, size: int, until: float, pause: float) -> str:
    session = secrets.token_hex(8)
    store.set(_SESSION, session)
    words = [_word_key(session, rank) for rank in range(1, size)]
    while not store.check(words):
        _wait(until, pause)
    store.set(_all_key(session), json.dumps([store.get(word).decode() for word in words]))
    return session


def _answer(store: Store, rank: int, until: float, pause: float) -> str:
    word, told = secrets.token_hex(8), ""
    while True:
        if store.check([_SESSION]):
            session = store.get(_SESSION).decode()  # of this start, or still of one before
            if session != told:
                store.set(_word_key(session, rank), word)
                told = session
            if store.check([_all_key(session)]):
                words = json.loads(store.get(_all_key(session)))
                if words[rank - 1 : rank] == [word]:
                    return session
        _wait(until, pause)


def _word_key(session: str, rank: int) -> str:
    return f"luthier/{session}/{rank}"


def _all_key(session: str) -> str:
    return f"luthier/{session}/all"


def _wait(until: float, pause: float) -> None:
    if time.monotonic() > until:
        raise PeerError(
            "the other processes of this job have not come",
            cure="see whether torchrun has started as many on every host as it was told",
        )
    time.sleep(pause)

"""The processes of a job as ``torchrun`` starts them, forked from this one; see ``processes``."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable

from processes import Forked


def started(
    size: int, function: Callable[[int], int | None], *, port: int | None = None
) -> list[Forked]:
    """Start a function in so many processes that are to find each other.

    Args:
        size: how many.
        function: is given the rank; what it returns is the exit status, and None is 0.
        port: where they meet; a free one by default.
    """
    where = free_port() if port is None else port

    def one(rank: int) -> Callable[[], int | None]:
        def run() -> int | None:
            told = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size}
            told |= {"MASTER_PORT": where}
            os.environ |= {name: str(value) for name, value in told.items()}
            os.environ["MASTER_ADDR"] = "127.0.0.1"
            return function(rank)

        return run

    return [Forked(one(rank)) for rank in range(size)]


def ended(processes: Iterable[Forked]) -> list[tuple[int | None, str, str]]:
    """Wait for processes; return the exit status of each, and what it said."""
    found = []
    for process in processes:
        said = process.communicate()
        found.append((process.returncode, *said))
    return found


def together(size: int, function: Callable[[int], int | None]) -> list[str]:
    """Run a function in so many processes; return what each printed, once all have ended well."""
    found = ended(started(size, function))
    said = "\n".join(f"--- status {status}\n{err}" for status, _, err in found)
    assert [status for status, _, _ in found] == [0] * size, said
    return [out for _, out, _ in found]


def free_port() -> int:
    """Return a port that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
    return number

"""The processes that write a checkpoint together: each its own files, the first all else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from luthier.distributed.board import Board
from luthier.errors import PeerError


@dataclass(frozen=True)
class Portion:
    """What a process has of a checkpoint.

    Attributes:
        files: for each the ``bytes`` and ``sha256``, as in the manifest.
        written: bytes that were written; files that had not changed were linked.
    """

    files: Mapping[str, Mapping[str, Any]]
    written: int


class Leader:
    """What the first of several writing threads says to the others; alone, it says nothing.

    It says by name into which directory to write. The others write, flush and answer what they have
    written, or which error the disk gave them; all begin anew when the first says so. At the end it
    says whether the checkpoint has its name.

    Args:
        board: of all processes that write; nobody else says anything there.
    """

    def __init__(self, board: Board | None = None) -> None:
        self._board = board
        self._said = 0
        self._unheard: list[str] = []  # words that some may be yet to hear

    def begin(self, directory: str) -> None:
        """Let the others write into a new directory beside the checkpoints."""
        self._say({"directory": directory})

    def portions(self) -> list[Portion]:
        """Return what the others have written; wait until all have come to an end.

        Raises:
            OSError: the disk refused one of them; its rank is in the text.
            PeerError: one has failed otherwise, and says itself how; or it does not answer.
        """
        if self._board is None:
            return []
        keys = [_answer(self._said, rank) for rank in range(1, self._board.size)]
        answers = [self._board.hear(key) for key in keys]
        for key in [*self._unheard, *keys]:
            self._board.forget(key)
        self._unheard = []
        for rank, answer in enumerate(answers, start=1):
            if "failed" in answer:
                raise PeerError(f"rank {rank} has failed")
            if "errno" in answer:
                raise OSError(answer["errno"], f"{answer['strerror']} (rank {rank})")
        return [Portion(**answer) for answer in answers]

    @contextlib.contextmanager
    def ending(self) -> Iterator[None]:
        """Tell the others at the end whether the inside has published the checkpoint."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(PeerError):
                self._say({"published": False})
            raise
        self._say({"published": True})

    def _say(self, word: Mapping[str, Any]) -> None:
        if self._board is None:
            return
        self._said += 1
        self._board.say(_word(self._said), word)
        self._unheard.append(_word(self._said))


class Follower:
    """One of the other writing threads; see ``Leader``.

    Args:
        board: of all processes that write.
    """

    def __init__(self, board: Board) -> None:
        self._board = board
        self._heard = 0

    def serve(self, write: Callable[[str], Portion]) -> Portion | None:
        """Write whenever the first says so, until the checkpoint has its name.

        Args:
            write: into the directory of this name.

        Returns:
            what was written; None where the checkpoint was there already.

        Raises:
            PeerError: it is not published, for a reason that another process says.
            LuthierError: ``write`` has raised it.
        """
        portion: Portion | None = None
        failure: Exception | None = None
        while "directory" in (word := self._next()):
            answer: dict[str, Any] = {"failed": True}
            try:
                portion = write(word["directory"])
                answer = asdict(portion)
            except OSError as error:
                answer = {"errno": error.errno, "strerror": error.strerror or str(error)}
            except Exception as error:
                failure = error  # raised once the others have heard of it
            self._board.say(_answer(self._heard, self._board.rank), answer)
        if failure is not None:
            raise failure
        if not word["published"]:
            raise PeerError("rank 0 has not published a checkpoint")
        return portion

    def _next(self) -> Any:
        self._heard += 1
        # The first may itself be writing, and then wait for another.
        return self._board.hear(_word(self._heard), 2 * self._board.patience)


def _word(number: int) -> str:
    return f"word/{number}"


def _answer(number: int, rank: int) -> str:
    return f"answer/{number}/{rank}"

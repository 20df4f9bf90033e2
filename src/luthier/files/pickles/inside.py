"""A file inside a pickle: ``torch.storage._load_from_bytes`` holds a whole torch file as bytes."""

from __future__ import annotations

from pathlib import Path

from luthier.errors import DamagedError
from luthier.files.entries import Archive
from luthier.files.limits import DEEPEST_FILE, Broken, Budget
from luthier.files.mapped import MappedFile


class Inner(MappedFile):
    """Bytes in memory, to be read as a file is.

    Args:
        content: the bytes.
        budget: of the file that they are in, which they share; its name is theirs.
    """

    budget: Budget

    def __init__(self, content: memoryview, budget: Budget) -> None:
        self.path = Path(f"{budget.name} (a file inside)")
        self.size = len(content)
        self.budget = budget
        self._content = content

    def read(self, start: int, count: int) -> bytes:
        """See ``MappedFile``."""
        self._check(start, count)
        return bytes(self._content[start : start + count])

    def view(self, start: int, count: int) -> memoryview:
        """See ``MappedFile``. Where the memory cannot be written to, it is copied once."""
        self._check(start, count)
        if self._content.readonly:
            self.budget.spend(self.size)
            self._content = memoryview(bytearray(self._content))
        return self._content[start : start + count]

    def _check(self, start: int, count: int) -> None:
        if start < 0 or count < 0 or start + count > self.size:
            raise DamagedError(
                f"{self.path} is truncated or damaged: bytes {start} to {start + count} are asked"
                f" for, and it has {self.size}"
            )

    def close(self) -> None:
        """See ``MappedFile``: nothing is open."""


def budget_of(file: MappedFile) -> Budget:
    """Return the budget for the objects of a file: of its own, or of the file that it is in."""
    return file.budget or Budget.of_size(file.size, str(file.path))


def open_inside(content: memoryview, budget: Budget) -> Archive:
    """Open a torch file that another one holds as bytes.

    Raises:
        Broken: files are inside each other without an end.
        DamagedError: it cannot be read.
    """
    # They read pickles themselves, so they import this module.
    from luthier.files.formats import torch_legacy, torch_zip  # noqa: PLC0415

    if budget.depth >= DEEPEST_FILE:
        raise Broken(f"files are inside files, more than {DEEPEST_FILE} deep")
    budget.depth += 1
    try:
        if bytes(content[:4]) == b"PK\x03\x04":
            return torch_zip.read(Inner(content, budget))
        return torch_legacy.read(Inner(content, budget))
    finally:
        budget.depth -= 1

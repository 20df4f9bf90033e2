"""Open any file of weights: no code in it runs, and its tensors stay on the disk. No torch here."""

from __future__ import annotations

import importlib
import re
from functools import partial
from pathlib import Path

from luthier.errors import DamagedError, UnsupportedFileError
from luthier.files import telling
from luthier.files.entries import Archive
from luthier.files.formats import folders, sharded
from luthier.files.limits import Budget
from luthier.files.mapped import MappedFile

_FORMATS = "luthier.files.formats"


def open_archive(path: Path) -> Archive:
    """Open a file, or a folder of files that belong together, whatever it is called.

    Tensors stay on the disk until they are asked for.

    Args:
        path: a file of weights; the JSON index of sharded weights; a folder that holds one of
            these, a checkpoint of luthier, or a distributed checkpoint of torch.

    Raises:
        UnsupportedFileError: it does not exist, or is of a kind that luthier does not read.
        DamagedError: it is truncated or contradicts itself.
        MissingExtraError: it is of a kind whose reader is not installed.
    """
    if re.match(r"\w[\w+.-]+:/", str(path)):  # Path makes one slash of two
        raise UnsupportedFileError(
            f"{path} is a URL, expected a file of this machine", cure="copy it here first"
        )
    path = Path(path)
    if not path.exists():
        raise UnsupportedFileError(f"weights file {path} does not exist")
    if path.is_dir():
        return folders.read(path, _open_file)
    return _open_file(path)


def _open_file(path: Path) -> Archive:
    file = MappedFile(path)
    kind = telling.format_of(file)
    if kind == "sharded":
        budget = Budget(sharded.room(path), str(path))
        return sharded.read(file, partial(_open_shard, budget))
    return _read(kind, file)


def _open_shard(budget: Budget, path: Path) -> Archive:
    # Together they may take what one file of their size may.
    file = MappedFile(path)
    file.budget = Budget(budget.limit - budget.spent, str(path))
    kind = telling.format_of(file)
    if kind == "sharded":  # or an index could name itself
        raise DamagedError(f"{path} is named as a shard, and is JSON")
    archive = _read(kind, file)
    budget.spend(file.budget.spent)
    return archive


def _read(kind: str, file: MappedFile) -> Archive:
    archive: Archive = importlib.import_module(f"{_FORMATS}.{kind}").read(file)
    return archive

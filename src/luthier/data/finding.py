"""The photos that a word of a command line stands for."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator

from luthier.data.images import EXTENSIONS
from luthier.errors import DataError


def find_photos(word: str) -> list[str]:
    """Return the paths that a file, a folder or a pattern stands for, sorted.

    Of folders all that is below them counts, but hidden files and those whose extension is that of
    no image. A pattern is only what names no file itself; ``**`` stands for any folders.

    Raises:
        DataError: a folder holds no photos, or nothing matches the pattern.
    """
    if os.path.isdir(word):
        found = sorted(_below(word))
        if not found:
            raise DataError(
                f"the folder {word} holds no images", cure=f"images are {', '.join(EXTENSIONS)}"
            )
        return found
    if os.path.lexists(word) or not glob.has_magic(word):
        return [word]
    matches = sorted(glob.glob(word, recursive=True))
    if not matches:
        raise DataError(f"no file matches {word}")
    return [path for match in matches for path in _of_match(match)]


def _of_match(match: str) -> list[str]:
    return sorted(_below(match)) if os.path.isdir(match) else [match]


def _below(folder: str) -> Iterator[str]:
    for root, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.lower().endswith(EXTENSIONS) and not name.startswith("."):
                yield os.path.join(root, name)

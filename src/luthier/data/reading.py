"""Photos of any number → what a model sees of them, read by threads; or the reason why not."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from luthier.data.crew import Crew, Task
from luthier.data.images import DECODE_ERRORS, as_decoded, decode, decoded_edge, describe
from luthier.data.rendering import views
from luthier.errors import DataError
from luthier.values import Preprocessing

Photo = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Read:
    """A photo that was read.

    Attributes:
        image: its path as it was given; None of an image in memory.
        views: what the model sees, float32 ``[views, 3, size, size]``; None if it is unreadable.
        problem: why it is unreadable, or None.
    """

    image: str | None
    views: torch.Tensor | None
    problem: str | None = None


def read_batches(
    photos: Iterable[Photo],
    how: Preprocessing,
    averaged: str = "none",
    *,
    batch_size: int,
    workers: int,
    ahead: int = 0,
) -> Iterator[list[Read]]:
    """Give photos as a model sees them in validation, in order, so many at a time.

    Args:
        photos: paths of files, Pillow's images, or arrays uint8 ``[height, width, 3]`` of RGB;
            they are asked for as they are needed.
        how: what happens to each.
        averaged: which views of each; see ``rendering.views``.
        batch_size: photos at a time.
        workers: threads that read.
        ahead: batches that are read before they are asked for.

    Raises:
        DataError: something that is no photo was given; it is named.
    """

    def begin(batch: list[Photo]) -> tuple[list[Read], Task]:
        slots = [Read(None, None)] * len(batch)

        def fill(slot: int) -> None:
            slots[slot] = _read(batch[slot], how, averaged)

        return slots, crew.begin(fill, len(batch))

    batches = iter(photos)
    begun: deque[tuple[list[Read], Task]] = deque()
    with closing(Crew(max(1, workers))) as crew:
        while batch := list(islice(batches, batch_size)):
            begun.append(begin(batch))
            if len(begun) > ahead:
                yield _finished(*begun.popleft())
        while begun:
            yield _finished(*begun.popleft())


def _finished(slots: list[Read], task: Task) -> list[Read]:
    task.finish()
    return slots


def _read(photo: Photo, how: Preprocessing, averaged: str) -> Read:
    if not isinstance(photo, str | os.PathLike):
        return Read(None, views(_in_memory(photo, decoded_edge(how)), how, averaged))
    name, content = os.fspath(photo), b""
    try:
        content = _content(Path(photo))
        return Read(name, views(decode(content, decoded_edge(how)), how, averaged))
    except DECODE_ERRORS as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else None
        return Read(name, None, reason or describe(error, content))


def _content(path: Path) -> bytes:
    # A pipe or a device may have no end.
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("a folder" if path.is_dir() else "no regular file")
    return path.read_bytes()


def _in_memory(photo: Image.Image | NDArray[np.uint8], shortest: int) -> Image.Image:
    if isinstance(photo, Image.Image):
        return as_decoded(photo, shortest)
    is_array = isinstance(photo, np.ndarray)
    if is_array and photo.dtype == np.uint8 and photo.ndim == 3 and photo.shape[2] == 3:
        return as_decoded(Image.fromarray(photo), shortest)
    found = f"an array {photo.dtype} {list(photo.shape)}" if is_array else type(photo).__name__
    raise DataError(
        f"an image is {found}",
        cure="give a path, an image of Pillow's, or an array uint8 [height, width, 3] of RGB",
    )

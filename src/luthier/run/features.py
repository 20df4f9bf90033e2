"""Features of photos in files, a chunk of batches in each: what is there need not be made again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from luthier.errors import DamagedError, UnsupportedFileError
from luthier.files import tensors
from luthier.files.opening import open_archive

_NAME = "features"


@dataclass(frozen=True)
class Chunk:
    """Some photos in one view.

    Attributes:
        side: "train" or "val", or "all".
        view: number of the view.
        number: of the chunk in its view.
        batches: the first batch, and one past the last.
        photos: the first photo, and one past the last.
        wanted: a hash of all that the features are made of and how.
    """

    side: str
    view: int
    number: int
    batches: tuple[int, int]
    photos: tuple[int, int]
    wanted: str

    @property
    def count(self) -> int:
        """The number of photos."""
        return self.photos[1] - self.photos[0]

    def path(self, folder: Path) -> Path:
        """Return where it lies in the folder of all features."""
        what = f"{self.side}-{self.view:04d}-{self.number:06d}-{self.wanted[:8]}"
        return folder / f"{what}.safetensors"


@dataclass(frozen=True)
class Stored:
    """What a chunk's file holds.

    Attributes:
        features: float32 ``[photos, features]``, mapped.
        of: the hash of what they are made of.
        environment: where they were made.
    """

    features: torch.Tensor
    of: str
    environment: Mapping[str, Any]


def write(path: Path, chunk: Chunk, features: torch.Tensor, environment: Mapping[str, Any]) -> None:
    """Write a chunk's file, atomically and durably."""
    told = {"of": chunk.wanted, "sha256": digest(features), "environment": dict(environment)}
    tensors.write(path, {_NAME: features}, told)


def read(path: Path, chunk: Chunk) -> Stored | None:
    """Read a chunk's file; None where there is none, or one of other photos.

    Raises:
        DamagedError: its content is not what was written.
    """
    if not path.exists():
        return None
    found = check(path)
    if found.of != chunk.wanted or len(found.features) != chunk.count:
        return None
    return found


def check(path: Path) -> Stored:
    """Read a chunk's file of whatever photos.

    Raises:
        DamagedError: its content is not what was written.
    """
    try:
        archive = open_archive(path)
        told = archive.metadata
        found = Stored(tensors.weights(archive)[_NAME], told["of"], told["environment"])
        sound = found.features.ndim == 2 and told["sha256"] == digest(found.features)
    except (UnsupportedFileError, KeyError, TypeError) as error:
        raise DamagedError(f"{path} is no file of features: {error}") from error
    if not sound:
        raise DamagedError(f"{path} has another content than when it was written")
    return found


def digest(features: torch.Tensor) -> str:
    """Return the SHA-256 of the elements."""
    return hashlib.sha256(features.contiguous().view(torch.uint8).numpy().data).hexdigest()


def hash_of(*facts: Any) -> str:
    """Return a hash of plain JSON values."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

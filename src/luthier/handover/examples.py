"""Images on which an export is compared with its model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from luthier import recipe
from luthier.data import Inventory, decode, decoded_edge, preprocess
from luthier.data.images import DECODE_ERRORS, EXTENSIONS
from luthier.errors import DataError
from luthier.files.wording import some
from luthier.run.folder import RunFolder
from luthier.values import Preprocessing

_MOST = 256  # of a run's validation images
_RANDOM = 8
_SEED = 0


@dataclass(frozen=True)
class Examples:
    """Images to compare on; going over them gives (what the model sees, the photo).

    Attributes:
        said: what they are, in words.
        kind: likewise, without a path of this machine.
        paths: files, of which those that are no images are passed over; () for random images.
        how: the preprocessing.
    """

    said: str
    kind: str
    paths: tuple[Path, ...]
    how: Preprocessing

    def __iter__(self) -> Iterator[tuple[torch.Tensor, Image.Image]]:
        for path in self.paths:
            try:
                content = path.read_bytes()
                photo = decode(content)
            except DECODE_ERRORS:
                continue
            yield preprocess(decode(content, decoded_edge(self.how)), self.how), photo
        for number in () if self.paths else range(_RANDOM):
            photo = _random(number, self.how)
            yield preprocess(photo, self.how), photo


def _random(number: int, how: Preprocessing) -> Image.Image:
    """Return an image of random patches; half of the images have one size, half another."""
    generator = np.random.default_rng((_SEED, number))
    patches = generator.integers(0, 256, (7, 9, 3), dtype=np.uint8)
    sizes = (how.resize * 3 // 2, how.resize), (how.resize, how.resize * 2)
    return Image.fromarray(patches).resize(sizes[number % 2], Image.Resampling.BICUBIC)


def chosen(given: Sequence[Path], how: Preprocessing) -> Examples:
    """Return the images that were named: files, and all images in folders.

    Raises:
        DataError: a file does not exist, or a folder has no image.
    """
    paths: list[Path] = []
    for path in given:
        if not path.exists():
            raise DataError(f"--check {path} does not exist")
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        found = [p for p in inside if p == path or p.suffix.lower() in EXTENSIONS]
        if not found:
            raise DataError(f"--check {path} has no images in it")
        paths += found
    return Examples(some(map(str, given), len(given), 3), "chosen images", tuple(paths), how)


def of_run(folder: RunFolder, how: Preprocessing) -> Examples:
    """Return validation images of a run, evenly over them all; random ones where they are gone."""
    inventory = Inventory.from_json(folder.data.read_bytes(), str(folder.data))
    data = Path(recipe.decided(recipe.read(folder.recipe).data.data))
    root = data if data.is_dir() else data.parent
    names = [entry.name for entry in inventory.on("val")]
    paths = tuple(path for name in names if (path := root / name).is_file())
    step = max(1, -(-len(paths) // _MOST))
    kind = "validation images"
    found = Examples(f"{kind} of {folder.path}", kind, paths[::step], how)
    if not paths or next(iter(found), None) is None:
        return random(how, f"the validation images of {folder.path} are no longer in {root}")
    return found


def random(how: Preprocessing, why: str) -> Examples:
    """Return random images, the same each time; ``why`` says what for."""
    return Examples(f"random images: {why}; name real ones with --check", "random images", (), how)

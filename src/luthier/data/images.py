"""A file's bytes → an upright RGB image, or the reason why not."""

from __future__ import annotations

import contextlib
import hashlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from luthier import vision

# The extensions of torchvision.datasets.ImageFolder, so that scores compare.
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Inspection:
    """What reading an image file once showed.

    Attributes:
        size: in bytes; 0 if they could not be read.
        mtime_ns: when it was last written, in nanoseconds since 1970; 0 likewise.
        sha256: of its bytes; empty likewise.
        problem: why it is no image, or None.
    """

    size: int
    mtime_ns: int
    sha256: str
    problem: str | None


def decode(content: bytes) -> Image.Image:
    """Decode an image of any mode into RGB, turned as its EXIF orientation says.

    Transparent parts are laid over white; 16-bit values are scaled down to 8 bits; of an
    animation the first frame is taken.

    Raises:
        OSError, ValueError, SyntaxError, Image.DecompressionBombError: it is no image, or
            truncated, or too large; see ``describe``.
    """
    with _no_warnings():
        return _decode(content)


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    # Of odd but readable metadata, and of large images. This changes the whole process, so a
    # thread must not enter it while another is inside.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _decode(content: bytes) -> Image.Image:
    fast = _decode_compiled(content)
    if fast is not None:
        return fast
    with Image.open(BytesIO(content)) as opened:
        opened.load()
        return _to_rgb(ImageOps.exif_transpose(opened))


def _decode_compiled(content: bytes) -> Image.Image | None:
    """Decode a JPEG with torchvision's compiled decoder where that loads beside this torch."""
    if content[:2] != b"\xff\xd8" or not vision.compiled_part_loads("image"):
        return None
    io = vision.load("torchvision.io")
    data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    try:
        pixels = io.decode_jpeg(data, mode=io.ImageReadMode.RGB, apply_exif_orientation=True)
    except RuntimeError:  # CMYK and rarer kinds: Pillow reads or refuses them
        return None
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return _wide_to_rgb(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _wide_to_rgb(image: Image.Image) -> Image.Image:
    # Pillow's own conversion clips at 255, which turns 16-bit photographs white.
    values = np.asarray(image).astype(np.float64)
    top = values.max(initial=0.0)
    if image.mode.startswith("I;16") or (image.mode == "I" and top > 255):
        values = values / 257.0  # 65535 → 255
    elif image.mode == "F" and top <= 1.0:
        values = values * 255.0
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8)).convert("RGB")


def describe(error: Exception, content: bytes) -> str:
    """Say in a few words why bytes are no image."""
    if not content:
        return "empty file"
    if isinstance(error, UnidentifiedImageError):
        return f"not an image: begins with {content[:12]!r}"
    return str(error) or type(error).__name__


def _inspect(path: Path, known: Inspection | None) -> Inspection:
    try:
        if known is not None and _is_as(known, path.stat()):
            return known
        with path.open("rb") as file:
            status = os.fstat(file.fileno())  # before reading: what is written later shows
            content = file.read()
    except OSError as error:
        return Inspection(0, 0, "", error.strerror or str(error))
    return Inspection(
        len(content), status.st_mtime_ns, hashlib.sha256(content).hexdigest(), _problem(content)
    )


def _is_as(known: Inspection, status: os.stat_result) -> bool:
    return (known.size, known.mtime_ns) == (status.st_size, status.st_mtime_ns)


def _problem(content: bytes) -> str | None:
    try:
        _decode(content)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        return describe(error, content)
    return None


def inspect_all(
    paths: Sequence[Path],
    known: Sequence[Inspection | None] = (),
    progress: Callable[[], object] = lambda: None,
) -> list[Inspection]:
    """Read and decode files on all cores, in order.

    Args:
        paths: the files.
        known: what was found in each before, or nothing at all; a file whose size and
            modification time are still those is not opened.
        progress: called after each file.
    """
    inspections = []
    with _no_warnings(), ThreadPoolExecutor() as pool:  # decoding lets go of Python's lock
        for inspection in pool.map(_inspect, paths, known or [None] * len(paths)):
            progress()
            inspections.append(inspection)
    return inspections

"""A file's bytes → an upright RGB image, or the reason why not."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from luthier import vision
from luthier.data.alike import look_of
from luthier.values import Preprocessing

if TYPE_CHECKING:
    from luthier.data.decoded import Decoded

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
        look: what it shows, coarsely; see ``alike.look_of``.
    """

    size: int
    mtime_ns: int
    sha256: str
    problem: str | None
    look: str = ""


def decoded_edge(how: Preprocessing) -> int:
    """Return how many pixels a photo's shorter edge must keep for a preprocessing.

    The smallest crop of training, 8 % of the area, is then still about as large as the square that
    the model sees: 1 / sqrt(0.08) = 3.5.
    """
    return max(math.ceil(3.5 * how.image_size), how.resize)


def decode(content: bytes, shortest: int | None = None) -> Image.Image:
    """Decode an image of any mode into RGB, turned as its EXIF orientation says.

    Transparent parts are laid over white; 16-bit values are scaled down to 8 bits; of an
    animation the first frame is taken.

    Args:
        content: the file's bytes.
        shortest: reduce the image by the largest power of two that leaves its shorter edge at
            least so many pixels; a JPEG by its decoder, which takes a fraction of the time.

    Raises:
        OSError, ValueError, SyntaxError, Image.DecompressionBombError: it is no image, or
            truncated, or too large; see ``describe``.
    """
    with quiet():
        return decode_quietly(content, shortest)


_quiet_lock = threading.Lock()
_quiet_now: list[contextlib.ExitStack] = []
_quiet_users = 0


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let Pillow say nothing of odd but readable metadata, and of large images.

    Filters are the whole process's: the first of several threads sets them and the last puts them
    back. Other modules' warnings are not touched.
    """
    global _quiet_users  # noqa: PLW0603 - so are the filters
    with _quiet_lock:
        if not _quiet_users:
            stack = contextlib.ExitStack()
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"PIL\.")
            _quiet_now.append(stack)
        _quiet_users += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_users -= 1
            if not _quiet_users:
                _quiet_now.pop().close()


def decode_quietly(content: bytes, shortest: int | None = None) -> Image.Image:
    """Decode as ``decode`` does, inside of ``quiet``."""
    with Image.open(BytesIO(content)) as opened:
        whole = opened.size
        factor = 1 if shortest is None else _power_of_two(min(whole) // shortest)
        if factor > 1:
            opened.draft(None, (whole[0] // factor, whole[1] // factor))
        image = _decode_compiled(content) if opened.size == whole else None
        if image is None:
            opened.load()
            factor //= min(factor, 8) if opened.size != whole else 1  # what the decoder did
            ImageOps.exif_transpose(opened, in_place=True)
            image = _to_rgb(opened)
    return image.reduce(factor) if factor > 1 else image


def as_decoded(image: Image.Image, shortest: int) -> Image.Image:
    """Return an image in memory as ``decode`` gives one from a file: RGB, upright, reduced.

    To the bit what ``decode`` gives, but of a JPEG: that may be reduced while it is decoded, or
    decoded by another library than Pillow.
    """
    upright = _to_rgb(ImageOps.exif_transpose(image))
    factor = _power_of_two(min(upright.size) // shortest)
    return upright.reduce(factor) if factor > 1 else upright


def _power_of_two(most: int) -> int:
    return 1 << max(0, most.bit_length() - 1)


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


DECODE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


def _inspect(path: Path, known: Inspection | None, decoded: Decoded | None) -> Inspection:
    try:
        if known is not None and _is_as(known, path.stat()):
            return known
        with path.open("rb") as file:
            status = os.fstat(file.fileno())  # before reading: what is written later shows
            content = file.read()
    except OSError as error:
        return Inspection(0, 0, "", error.strerror or str(error))
    problem, look = None, ""
    try:
        if decoded is None:
            photo = np.asarray(decode_quietly(content))
        else:
            photo = decoded.decode(path, content)
        look = look_of(photo)
    except DECODE_ERRORS as error:
        problem = describe(error, content)
    sha256 = hashlib.sha256(content).hexdigest()
    return Inspection(len(content), status.st_mtime_ns, sha256, problem, look)


def _is_as(known: Inspection, status: os.stat_result) -> bool:
    return (known.size, known.mtime_ns) == (status.st_size, status.st_mtime_ns)


def inspect_all(
    paths: Sequence[Path],
    known: Sequence[Inspection | None] = (),
    progress: Callable[[], object] = lambda: None,
    decoded: Decoded | None = None,
) -> list[Inspection]:
    """Read and decode files on all cores, in order.

    Args:
        paths: the files.
        known: what was found in each before, or nothing at all; a file whose size and
            modification time are still those is not opened.
        progress: called after each file.
        decoded: keeps the decoded images, where it has room.
    """
    inspections = []
    with quiet(), ThreadPoolExecutor() as pool:  # decoding lets go of Python's lock
        look = functools.partial(_inspect, decoded=decoded)
        for inspection in pool.map(look, paths, known or [None] * len(paths)):
            progress()
            inspections.append(inspection)
    return inspections

"""Images that show the same, though their bytes differ: saved again, resized, a little cropped.

By which of two neighbouring cells of a coarse grid is the brighter (a difference hash, as Krawetz
described in 2013, of both directions).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_CELLS, _COMPARISONS = 9, 128
_CLEAR = 2  # grey levels between neighbours; less is noise
# Comparisons. On 396 photos of insects, copies saved as JPEG of quality 30, at half the size or
# stretched to a square differ by 10 or less in 99 %, copies without a fiftieth of each edge in 3 of
# 4; the nearest two of 78,210 pairs of different photos by 29.
_DIFFERENT = 10
_MOST_PAIRS = 2_000_000_000  # about ten seconds
_ROWS = 256


def look_of(photo: NDArray[np.uint8]) -> str:
    """Return 128 comparisons of a photo as hexadecimal digits; "" of one that shows too little.

    Args:
        photo: ``[height, width, 3]``.
    """
    grey = Image.fromarray(photo).convert("L").resize((_CELLS, _CELLS), Image.Resampling.BOX)
    cells = np.asarray(grey).astype(np.int16)
    across, down = np.diff(cells, axis=1)[:-1], np.diff(cells, axis=0)[:, :-1]
    steps = np.concatenate([across.ravel(), down.ravel()])
    if np.count_nonzero(np.abs(steps) >= _CLEAR) < len(steps) / 2:
        return ""
    return np.packbits(steps > 0).tobytes().hex()


def alike(looks: Sequence[str], among: Sequence[str]) -> list[tuple[int, int]] | None:
    """Find the pairs of images that show the same.

    Args:
        looks: by ``look_of``.
        among: likewise.

    Returns:
        pairs of an index of ``looks`` and one of ``among``, in order; None where there are too many
        to compare.
    """
    if len(looks) * len(among) > _MOST_PAIRS:
        return None
    ours = [index for index, look in enumerate(looks) if look]
    theirs = [index for index, look in enumerate(among) if look]
    first, second = _bits([looks[i] for i in ours]), _bits([among[i] for i in theirs])
    found = []
    for start in range(0, len(ours), _ROWS):
        agree = first[start : start + _ROWS] @ second.T  # comparisons that agree, less the others
        for row, other in np.argwhere(agree >= _COMPARISONS - 2 * _DIFFERENT).tolist():
            found.append((ours[start + row], theirs[other]))
    return found


def one_of_each(looks: Sequence[str], digests: Sequence[str]) -> list[str]:
    """Return for each image one digest that all that show the same have in common.

    What is alike to something alike counts too. Where there are too many to compare, it is an
    image's own.

    Args:
        looks: by ``look_of``.
        digests: of the images' bytes.
    """
    common = list(digests)
    pairs = [(i, j) for i, j in alike(looks, looks) or () if i < j and digests[i] != digests[j]]
    while True:
        before = list(common)
        for i, j in pairs:
            common[i] = common[j] = min(common[i], common[j])
        if common == before:
            return common


def _bits(looks: Sequence[str]) -> NDArray[np.float32]:
    octets = np.frombuffer(bytes.fromhex("".join(looks)), dtype=np.uint8)
    return np.unpackbits(octets).reshape(-1, _COMPARISONS).astype(np.float32) * 2 - 1

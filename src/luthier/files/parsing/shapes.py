"""Shapes that a file declares, held to what a tensor can have. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

MOST_DIMENSIONS = 64
_LIMIT = 1 << 63


def are_sizes(value: Any) -> bool:
    """Tell whether a value is a list of numbers that can be lengths or places in bytes."""
    if not isinstance(value, list | tuple) or len(value) > MOST_DIMENSIONS:
        return False
    for item in value:  # noqa: SIM110 - a header has thousands of these, and all() takes twice as long
        if type(item) is not int or not 0 <= item < _LIMIT:
            return False
    return True


def count(shape: Sequence[int]) -> int:
    """Return the number of elements of a shape.

    Raises:
        ValueError: it has too many dimensions, or a product of lengths that no tensor can have;
            that is looked at without the lengths of zero, since strides are computed without them.
    """
    product = 1
    if len(shape) > MOST_DIMENSIONS:
        raise ValueError(f"a shape of {len(shape)} dimensions, at most {MOST_DIMENSIONS} expected")
    for length in shape:
        product *= max(length, 1)
        if product >= _LIMIT:
            raise ValueError(f"the shape {str(list(shape))[:80]} is larger than any tensor's")
    return 0 if 0 in shape else product

"""How far two tensors are apart, looked at piece by piece."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

_PIECE = 1 << 20  # elements that are looked at at a time
_HALVES = {4: torch.int16, 8: torch.int32, 16: torch.int64}
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Difference:
    """What differs between two tensors of one shape.

    Attributes:
        elements: of each.
        differing: elements whose bits differ (whose values differ, where the dtypes do).
        max_abs: the largest absolute difference of two finite numbers.
        max_rel: the largest difference of two finite numbers, as a part of the larger of the two.
        not_finite: differing elements of which one is infinite or no number.
        moved: the length (the square root of the sum of squares) of the difference.
        length: the length of the first.
    """

    elements: int
    differing: int = 0
    max_abs: float = 0.0
    max_rel: float = 0.0
    not_finite: int = 0
    moved: float = 0.0
    length: float = 0.0

    @property
    def part(self) -> float:
        """How far it moved, as a part of its own length."""
        return self.moved / self.length if self.length else math.inf if self.moved else 0.0


def difference(one: torch.Tensor, other: torch.Tensor) -> Difference:
    """Compare two tensors of one shape, element by element.

    A number that is none (NaN) equals itself where the bits are the same. Tensors of different
    dtypes are compared by value.

    Args:
        one: strided, on the CPU.
        other: likewise.
    """
    found = Difference(one.numel())
    squares = 0.0
    for a, b in zip(_pieces(one), _pieces(other), strict=True):
        same = _same(a, b)
        if not bool(same.all()):
            piece, square = _of_pieces(a, b, same)
            squares += square
            found = Difference(
                found.elements,
                found.differing + piece.differing,
                max(found.max_abs, piece.max_abs),
                max(found.max_rel, piece.max_rel),
                found.not_finite + piece.not_finite,
            )
    if not found.differing:
        return found
    length = sum(_squares(_numbers(piece)) for piece in _pieces(one))
    return replace(found, moved=math.sqrt(squares), length=math.sqrt(length))


def _of_pieces(a: torch.Tensor, b: torch.Tensor, same: torch.Tensor) -> tuple[Difference, float]:
    """Return what differs, and the sum of its squares."""
    x, y = _numbers(a), _numbers(b)
    finite = x.isfinite() & y.isfinite()
    apart = _apart(a, b, x, y).masked_fill(same | ~finite, 0)
    relative = torch.where(apart > 0, apart / torch.maximum(x.abs(), y.abs()), 0)
    found = Difference(
        len(same),
        differing=int((~same).sum()),
        max_abs=float(apart.max()),
        max_rel=float(relative.max()),
        not_finite=int((~same & ~finite).sum()),
    )
    return found, _squares(apart)


def _squares(numbers: torch.Tensor) -> float:
    return float(numbers.abs().masked_fill(~numbers.isfinite(), 0).square().sum())


def _pieces(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Give the elements in order, in pieces of one dimension."""
    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().view(-1)
    for start in range(0, flat.numel(), _PIECE):
        yield flat[start : start + _PIECE]


def _same(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Tell where the bits are the same; of different dtypes, the values."""
    if a.dtype == b.dtype:
        if a.is_complex():
            parts = a.view(_HALVES[a.element_size()]) == b.view(_HALVES[a.element_size()])
            return parts.view(-1, 2).all(-1)
        bits = _BITS[a.element_size()]
        return a.view(bits) == b.view(bits)
    x, y = _numbers(a), _numbers(b)
    equal = (x == y) | (x.isnan() & y.isnan())
    if _is_whole(a) and _is_whole(b):  # of which a float64 does not hold all
        equal &= a.to(torch.int64) == b.to(torch.int64)
    return equal


def _is_whole(a: torch.Tensor) -> bool:
    return not (a.is_floating_point() or a.is_complex())


def _numbers(a: torch.Tensor) -> torch.Tensor:
    return a.to(torch.complex128 if a.is_complex() else torch.float64)


def _apart(a: torch.Tensor, b: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return absolute differences; of whole numbers exactly, where they fit."""
    if _is_whole(a) and _is_whole(b) and torch.uint64 not in (a.dtype, b.dtype):
        p, q = a.to(torch.int64), b.to(torch.int64)
        exact = (torch.maximum(p, q) - torch.minimum(p, q)).to(torch.float64)
        return torch.where(exact < 0, (x - y).abs(), exact)  # more than an int64 holds
    return (x - y).abs()

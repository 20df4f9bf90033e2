"""Crop, resize and flip as matrix products give what torch's antialiased resize gives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from luthier.data.matrices import Box, resample, resize_matrices

MODES = ("bilinear", "bicubic")


def photo(height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=generator)


def expected(photo: Tensor, box: Box, flip: bool, size: int, mode: str) -> Tensor:
    top, left, height, width = box
    crop = photo[top : top + height, left : left + width].permute(2, 0, 1)[None].double()
    square = F.interpolate(crop, (size, size), mode=mode, antialias=True).clamp(0, 255)[0]
    return (square.flip(-1) if flip else square).float()


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Box, bool]:
    height, width = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    rows, columns = draw(st.integers(1, height - top)), draw(st.integers(1, width - left))
    box = (top, left, rows, columns)
    return photo(height, width, draw(st.integers(0, 9))), box, draw(st.booleans())


@settings(deadline=None, max_examples=150)
@given(
    batch=st.lists(cases(), min_size=1, max_size=5),
    size=st.integers(1, 60),
    mode=st.sampled_from(MODES),
)
def test_it_equals_torchs_antialiased_resize(
    batch: list[tuple[Tensor, Box, bool]], size: int, mode: str
) -> None:
    given_photos, boxes, flips = zip(*batch, strict=True)
    result = resample(given_photos, boxes, flips, size, mode)
    assert result.shape == (len(batch), 3, size, size)
    for square, case in zip(result, batch, strict=True):
        torch.testing.assert_close(square, expected(*case, size, mode), rtol=0, atol=1e-3)


@pytest.mark.parametrize("mode", MODES)
def test_photos_of_usual_sizes(mode: str) -> None:
    sizes = [(768, 1024), (1024, 768), (224, 224), (100, 3000)]
    boxes = [(3, 5, 700, 1000), (100, 0, 300, 400), (0, 0, 224, 224), (9, 1, 90, 2900)]
    flips = [True, False, True, False]
    given_photos = [photo(*size) for size in sizes]
    result = resample(given_photos, boxes, flips, 224, mode)
    for square, *case in zip(result, given_photos, boxes, flips, strict=True):
        torch.testing.assert_close(square, expected(*case, 224, mode), rtol=0, atol=1e-3)


def test_a_crop_of_the_size_asked_for_is_copied() -> None:
    given_photo = photo(50, 60)
    result = resample([given_photo], [(7, 9, 32, 32)], [False], 32, "bicubic")
    assert torch.equal(result[0], given_photo[7:39, 9:41].permute(2, 0, 1).float())


def test_what_lies_outside_of_the_box_is_not_seen() -> None:
    one = photo(40, 40)
    other = 255 - one
    other[10:30, 5:25] = one[10:30, 5:25]
    box = (10, 5, 20, 20)
    for mode in MODES:
        first, second = resample([one, other], [box, box], [False, False], 9, mode)
        torch.testing.assert_close(first, second, rtol=0, atol=1e-3)


@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=4),
    size=st.integers(1, 64),
    mode=st.sampled_from(MODES),
)
def test_rows_of_a_matrix_add_up_to_one_within_the_axis(
    lengths: list[int], size: int, mode: str
) -> None:
    matrices = resize_matrices(torch.tensor(lengths), size, mode)
    torch.testing.assert_close(matrices.double().sum(-1), torch.ones(len(lengths), size).double())
    for matrix, length in zip(matrices, lengths, strict=True):
        assert not matrix[:, length:].any()

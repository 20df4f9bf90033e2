"""An RGB image → what the model sees.

The transforms are torchvision's own. ``preprocess`` is the one function for validation and
prediction alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image

from luthier import vision
from luthier.values import Preprocessing

Transform = Callable[[Image.Image], torch.Tensor]


def preprocess(image: Image.Image, how: Preprocessing) -> torch.Tensor:
    """Return what the model sees of an image outside of training: float ``[3, size, size]``."""
    result: torch.Tensor = evaluation_transform(how)(image)
    return result


def evaluation_transform(how: Preprocessing) -> Transform:
    """Resize the shorter edge, crop the centre, scale to [0, 1], normalise."""
    t = vision.load("torchvision.transforms")
    first = [t.Resize(how.resize, interpolation=_mode(how)), t.CenterCrop(how.image_size)]
    return _compose([*first, *_to_normalised(how)])


def training_transform(how: Preprocessing, augment: str) -> Transform:
    """Return the random transform of training images.

    Args:
        how: size, mean and standard deviation.
        augment: "crop-flip" (random resized crop, Szegedy et al. 2015, and horizontal flip),
            "crop" (without the flip), or "none" (as in validation).
    """
    if augment == "none":
        return evaluation_transform(how)
    t = vision.load("torchvision.transforms")
    first = [t.RandomResizedCrop(how.image_size, interpolation=_mode(how))]
    if augment == "crop-flip":
        first.append(t.RandomHorizontalFlip())
    return _compose([*first, *_to_normalised(how)])


def _compose(steps: list[Any]) -> Transform:
    composed: Transform = vision.load("torchvision.transforms").Compose(steps)
    return composed


def _to_normalised(how: Preprocessing) -> list[Any]:
    t = vision.load("torchvision.transforms")
    return [t.ToTensor(), t.Normalize(how.mean, how.std)]


def _mode(how: Preprocessing) -> Any:
    return vision.load("torchvision.transforms").InterpolationMode(how.interpolation)

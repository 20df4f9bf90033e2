"""What is exported, and what an export does when it is opened again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import nn

from luthier.values import Preprocessing


@dataclass(frozen=True)
class Subject:
    """A model and what is known of it.

    Attributes:
        model: in evaluation mode, in float32.
        state: its weights, each with the dtype of the model's file.
        architecture: as the format names it: ``torchvision/NAME``, or that library's own name.
        arguments: of the constructor; plain values.
        classes: names in index order.
        preprocessing: what happens to a photo before the model sees it.
        about: the description of a model file; plain JSON values.
    """

    model: nn.Module
    state: Mapping[str, torch.Tensor]
    architecture: str
    arguments: Mapping[str, Any]
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    about: Mapping[str, Any]

    @property
    def about_json(self) -> str:
        """The description as ASCII text, whatever characters are in names."""
        return json.dumps(self.about)


@dataclass(frozen=True)
class Opened:
    """An export, loaded by the program that it was made for. What it does not take is None.

    Attributes:
        scores: of normalised images, float32 ``[batch, 3, size, size]`` → ``[batch, classes]``.
        scores_of_photos: of RGB photos of any size, by the export's own preprocessing.
    """

    scores: Callable[[torch.Tensor], torch.Tensor] | None = None
    scores_of_photos: Callable[[Sequence[Image.Image]], torch.Tensor] | None = None

"""A model as one graph, with a batch of any size; with the preprocessing in it if wanted."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from luthier import vision
from luthier.errors import ModelError
from luthier.exporting.subject import Opened, Subject
from luthier.values import Preprocessing

FLOAT_INPUT, PHOTO_INPUT, OUTPUT = "pixel_values", "images", "logits"


class FromPhotos(nn.Module):
    """A model that is given photos as they were decoded: uint8 ``[batch, height, width, 3]``.

    Inside are, as in validation: the shorter edge resized with antialiasing, the square cut from
    the middle (over black where the photo is smaller), and the normalisation.

    Args:
        model: is given float32 ``[batch, 3, size, size]``.
        how: sizes, interpolation, mean and standard deviation.
    """

    factor: torch.Tensor
    bias: torch.Tensor

    def __init__(self, model: nn.Module, how: Preprocessing) -> None:
        super().__init__()
        self.model = model
        self._how = how
        mean, std = torch.tensor([how.mean, how.std], dtype=torch.float64)
        self.register_buffer("factor", (1 / (255 * std)).float(), persistent=False)
        self.register_buffer("bias", (-mean / std).float(), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the scores of each class."""
        resize, size = self._how.resize, self._how.image_size
        height, width = images.shape[1:3]
        shorter = torch.sym_min(height, width)  # type: ignore[no-untyped-call]
        edges = (resize * height // shorter, resize * width // shorter)
        squares = F.interpolate(
            images.permute(0, 3, 1, 2), size=edges, mode=self._how.interpolation, antialias=True
        )
        margin = max(0, size - resize)  # no edge lacks more; of a fixed size, as graphs like it
        if margin:
            squares = F.pad(squares, (margin,) * 4)
        for dimension, edge in zip((2, 3), edges, strict=True):
            squares = squares.narrow(dimension, margin + _start(edge, size), size)
        values = squares.permute(0, 2, 3, 1).to(torch.float32) * self.factor + self.bias
        scores: torch.Tensor = self.model(values.permute(0, 3, 1, 2))
        return scores


def _start(edge: int, size: int) -> int:
    """Return where the square begins; below 0 where the edge is shorter than it.

    Half of what is over, halves to even as Python's ``round`` has it, in whole numbers that a
    graph can compute.
    """
    over = torch.sym_max(0, edge - size)  # type: ignore[no-untyped-call]
    lacking = torch.sym_max(0, size - edge)  # type: ignore[no-untyped-call]
    half = over // 2
    start: int = half + (over % 2) * (half % 2) - lacking // 2
    return start


def program(subject: Subject, with_preprocessing: bool) -> torch.export.ExportedProgram:
    """Return a model as a graph whose batch may have any size.

    Raises:
        ModelError: what the model computes depends on values in a way that no graph has.
    """
    vision.load()  # torch's exporter imports torchvision, which must be mended first
    size = subject.preprocessing.image_size
    dimension = torch.export.Dim
    dynamic: dict[int, Any] = {0: dimension("batch")}
    if with_preprocessing:
        model: nn.Module = FromPhotos(subject.model, subject.preprocessing).eval()
        example = torch.zeros(2, size + 31, size + 67, 3, dtype=torch.uint8)
        dynamic |= {1: dimension("height", min=2), 2: dimension("width", min=2)}
    else:
        model, example = subject.model, torch.zeros(2, 3, size, size)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = torch.export.export(model, (example,), dynamic_shapes=(dynamic,))
    except Exception as error:  # torch has many kinds
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ModelError(
            f"{type(subject.model).__name__} is no graph of tensors to torch.export:"
            f" {type(error).__name__}: {reason:.300}",
            cure="hand over its weights instead: --to safetensors",
        ) from error
    for module in made.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # paths of this machine, which are nobody's business
    return made


def opened(call: Callable[[torch.Tensor], torch.Tensor], takes_photos: bool) -> Opened:
    """Return a graph that was loaded, by what it takes."""
    if not takes_photos:
        return Opened(scores=call)

    def of_photos(photos: Sequence[Image.Image]) -> torch.Tensor:
        found = []
        for _, same in groupby(photos, lambda photo: photo.size):  # what a batch has in common
            batch = np.stack([np.asarray(photo) for photo in same])
            found.append(call(torch.from_numpy(batch)))
        return torch.cat(found)

    return Opened(scores_of_photos=of_photos)

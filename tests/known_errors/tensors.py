"""Errors of shapes, dtypes, targets and arrays."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from known_errors import Known, Raises, Recorded
from luthier import vision

# Layers.


class Net(nn.Module):
    """A model as people write them: two convolutions and a head."""

    def __init__(self, features: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.MaxPool2d(2))
        self.fc = nn.Linear(features, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x)
        return self.fc(torch.flatten(x, 1))  # type: ignore[no-any-return]


class Unflattened(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.body(x))  # type: ignore[no-any-return]


class OneSample(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.flatten(self.body(x)))  # type: ignore[no-any-return]


def given(model: nn.Module, *shape: int) -> Callable[[Path], object]:
    """Return what gives a model images of a shape."""

    def raises(_folder: Path) -> None:
        images = torch.zeros(shape)
        model(images)

    raises.__name__ = f"{type(model).__name__}_of_{'x'.join(map(str, shape))}"
    return raises


def flat_images(_folder: Path) -> None:
    nn.functional.conv2d(torch.zeros(2, 64), torch.zeros(4, 1, 3, 3))


def matrices(_folder: Path) -> None:
    a, b = torch.zeros(2, 3), torch.zeros(2, 3)
    a @ b


def transposed_view(_folder: Path) -> None:
    features = torch.zeros(2, 3).t()
    features.view(-1)


def vit(_folder: Path) -> None:
    models = vision.load("torchvision.models")
    model = models.VisionTransformer(32, 16, 1, 2, 8, 8)
    images = torch.zeros(1, 3, 40, 40)
    model(images)


def vit_of_timm(_folder: Path) -> None:
    timm = importlib.import_module("timm.models.vision_transformer")
    timm.VisionTransformer(img_size=32, embed_dim=8, depth=1, num_heads=2)(
        torch.zeros(1, 3, 48, 48)
    )


def one_left_over(_folder: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    for samples in DataLoader(torch.zeros(5, 3), batch_size=4):  # type: ignore[arg-type]
        model(samples)


# Dtypes.


def of_dtype(model: nn.Module, dtype: torch.dtype, *shape: int) -> Callable[[Path], object]:
    """Return what gives a model an input of a dtype."""

    def raises(_folder: Path) -> None:
        x = torch.zeros(shape, dtype=dtype)
        model(x)

    raises.__name__ = f"{type(model).__name__}_of_{str(dtype).removeprefix('torch.')}"
    return raises


def doubles_in_a_product(_folder: Path) -> None:
    torch.zeros(1, 2, 3).bmm(torch.from_numpy(np.zeros((1, 3, 2))))


def half_cholesky(_folder: Path) -> None:
    torch.linalg.cholesky(torch.eye(2).half())


def softmax_of_integers(_folder: Path) -> None:
    torch.ones(3, dtype=torch.long).softmax(0)


def scaled_in_place(_folder: Path) -> None:
    pixels = torch.zeros(3, 8, 8, dtype=torch.uint8)
    pixels /= 255


def array(make: Callable[[], Any]) -> Callable[[Path], object]:
    def raises(_folder: Path) -> None:
        values = make()
        torch.from_numpy(values)

    return raises


def reversed_in_a_loader(_folder: Path) -> None:
    next(iter(DataLoader([np.zeros((8, 8, 3))[..., ::-1]] * 2)))  # type: ignore[arg-type]


# Losses.


def lost(criterion: Any, shape: tuple[int, ...], labels: torch.Tensor) -> Callable[[Path], object]:
    """Return what asks a criterion for the loss of scores of a shape."""

    def raises(_folder: Path) -> None:
        scores = torch.zeros(shape)
        criterion(scores, labels)

    return raises


def past_one(_folder: Path) -> None:
    scores = torch.tensor([0.5, 1.5])
    nn.BCELoss()(scores, torch.zeros(2))


def diverged(_folder: Path) -> None:
    scores = torch.tensor([0.5, float("nan")])
    nn.BCELoss()(scores, torch.zeros(2))


def broadcast(_folder: Path) -> None:
    outputs, targets = torch.zeros(4, 1), torch.zeros(4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nn.MSELoss()(outputs, targets)


def bag(_folder: Path) -> None:
    nn.EmbeddingBag(3, 2)(torch.tensor([[1, 5]]))


def indices(layer: nn.Module, values: torch.Tensor) -> Callable[[Path], object]:
    def raises(_folder: Path) -> None:
        tokens = values
        layer(tokens)

    return raises


def one_hot(labels: torch.Tensor) -> Callable[[Path], object]:
    def raises(_folder: Path) -> None:
        nn.functional.one_hot(labels, 3)

    return raises


CLASSES, BINARY = nn.CrossEntropyLoss(), nn.BCEWithLogitsLoss()

KNOWN: Known = {
    "channels-last": [given(Net(), 2, 8, 8, 3), given(nn.Conv2d(3, 4, 3), 8, 8, 3)],
    "image-channels": [given(Net(), 2, 1, 8, 8), given(Net(), 2, 4, 8, 8)],
    "layer-channels": [given(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(8, 4, 1)), 1, 3, 8, 8)],
    "norm-channels": [
        given(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(8)), 1, 3, 8, 8),
        given(nn.GroupNorm(1, 3), 2, 4),
    ],
    "missing-batch-dimension": [given(Net(), 3, 8, 8)],
    "input-of-other-dimensions": [
        given(nn.Conv2d(1, 4, 3), 2, 64),
        flat_images,
        given(nn.Conv2d(3, 4, 3), 1, 2, 3, 8, 8),
        given(nn.BatchNorm1d(4), 2, 4, 8, 8),
    ],
    "image-too-small": [
        given(Net(), 2, 3, 2, 2),
        given(Net(), 2, 3, 3, 3),
        given(nn.AvgPool2d(3), 1, 3, 2, 2),
    ],
    "linear-input-size": [
        given(Net(), 2, 3, 8, 8),
        given(Unflattened(36), 2, 3, 8, 8),
        given(OneSample(36), 2, 3, 8, 8),
    ],
    "matrix-shapes": [matrices],
    "view-of-scattered-memory": [transposed_view],
    "vit-image-size": [vit, vit_of_timm],
    "batch-norm-of-one-value": [one_left_over, given(nn.BatchNorm2d(3), 1, 3, 1, 1)],
    "input-dtype": [
        of_dtype(Net(36), torch.float64, 2, 3, 8, 8),
        of_dtype(Net(36), torch.uint8, 2, 3, 8, 8),
        of_dtype(nn.Linear(3, 2), torch.float64, 2, 3),
        of_dtype(nn.Linear(3, 2, bias=False), torch.int64, 2, 3),
        of_dtype(nn.Linear(3, 2).half(), torch.float32, 2, 3),
        of_dtype(nn.LSTM(3, 2), torch.float64, 1, 2, 3),
        of_dtype(nn.LayerNorm(3), torch.float64, 2, 3),
    ],
    "scalar-types-that-differ": [doubles_in_a_product],
    "operation-without-half": [half_cholesky],
    "operation-without-integers": [
        softmax_of_integers,
        of_dtype(nn.BatchNorm2d(3), torch.uint8, 2, 3, 8, 8),
    ],
    "in-place-on-integers": [scaled_in_place, of_dtype(nn.Dropout(), torch.uint8, 2, 3)],
    "array-of-another-type": [
        array(lambda: np.array([[1, 2], [3]], dtype=object)),
        array(lambda: np.array(["ant"])),
    ],
    "array-that-is-reversed": [array(lambda: np.ones(3)[::-1]), reversed_in_a_loader],
    "array-of-foreign-bytes": [array(lambda: np.zeros(3, dtype=">f4"))],
    "label-out-of-range": [
        lost(CLASSES, (3, 3), torch.tensor([1, 2, 3])),
        lost(CLASSES, (2, 3), torch.tensor([0, 7])),
        lost(CLASSES, (2, 3), torch.tensor([-1, 1])),
        lost(CLASSES, (2, 1), torch.tensor([0, 1])),
        lost(CLASSES, (1, 3, 2, 2), torch.tensor([[[0, 1], [2, 255]]])),
    ],
    "targets-of-two-dimensions": [
        lost(CLASSES, (2, 3), torch.zeros(2, 1, dtype=torch.long)),
        lost(CLASSES, (2, 3), torch.eye(4)[:2]),
    ],
    "batch-sizes-of-a-loss": [lost(CLASSES, (4, 3), torch.zeros(2, dtype=torch.long))],
    "class-targets-dtype": [
        lost(CLASSES, (4, 3), torch.zeros(4)),
        lost(CLASSES, (4, 3), torch.zeros(4, dtype=torch.int32)),
    ],
    "one-hot-of-integers": [lost(CLASSES, (2, 3), torch.eye(3, dtype=torch.long)[:2])],
    "mask-with-a-channel": [lost(CLASSES, (2, 3, 4, 4), torch.zeros(2, 1, 4, 4).long())],
    "class-weights": [
        lost(nn.CrossEntropyLoss(torch.ones(2)), (4, 3), torch.zeros(4, dtype=torch.long))
    ],
    "binary-target-size": [lost(nn.BCELoss(), (4, 1), torch.zeros(4))],
    "binary-logits-target-size": [lost(BINARY, (4, 1), torch.zeros(4))],
    "binary-targets-dtype": [
        lost(nn.BCELoss(), (4,), torch.zeros(4, dtype=torch.long)),
        lost(BINARY, (4,), torch.zeros(4, dtype=torch.long)),
    ],
    "binary-without-sigmoid": [past_one, diverged],
    "binary-target-range": [lost(nn.BCELoss(), (2,), torch.tensor([1.0, 2.0]))],
    "loss-that-broadcasts": [broadcast],
    "embedding-index": [
        indices(nn.Sequential(nn.Embedding(3, 2)), torch.tensor([1, 5])),
        indices(nn.Embedding(3, 2), torch.tensor([-1, 2])),
        bag,
    ],
    "embedding-of-floats": [indices(nn.Embedding(3, 2), torch.zeros(2))],
    "one-hot-classes": [one_hot(torch.tensor([3])), one_hot(torch.tensor([-1]))],
    "one-hot-of-another-dtype": [one_hot(torch.tensor([1.0]))],
}
RECORDED: Recorded = {
    "image-channels": ["channels"],
    "linear-input-size": ["shapes"],
    "vit-image-size": ["timm_old"],
    "input-dtype": [
        "conv_half_weights",
        "linear_half_weights",
        "linear_of_doubles",
        "rnn_of_doubles",
    ],
    "scalar-types-that-differ": ["linear_scalar_type"],
    "operation-without-half": ["addmm_half"],
    "array-of-another-type": ["uint16_array"],
    "class-targets-dtype": ["labels_of_floats", "labels_of_int"],
    "double-targets": ["double_targets"],
    "class-targets-kernel": ["labels_of_int_cuda", "labels_of_short_cpu"],
}


def converted(_folder: Path) -> None:
    Net(36)(torch.zeros(2, 8, 8, 3).movedim(-1, -3))


def a_batch(_folder: Path) -> None:
    Net(36)(torch.zeros(3, 8, 8).unsqueeze(0))


def right_size(_folder: Path) -> None:
    model = Net(32)
    model.fc = nn.LazyLinear(10)
    model(torch.zeros(2, 3, 8, 8))
    assert model.fc.in_features == 36


def larger(_folder: Path) -> None:
    Net(36)(nn.functional.interpolate(torch.zeros(2, 3, 3, 3), 8))


def last_dropped(_folder: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    for samples in DataLoader(torch.zeros(5, 3), batch_size=4, drop_last=True):  # type: ignore[arg-type]
        model(samples)
    model.eval()(torch.zeros(1, 3))


def from_zero(_folder: Path) -> None:
    CLASSES(torch.zeros(3, 3), torch.tensor([1, 2, 3]) - 1)


def not_in_place(_folder: Path) -> None:
    pixels = torch.zeros(3, 8, 8, dtype=torch.uint8)
    assert (pixels / 255).dtype == torch.float32


def as_float(_folder: Path) -> None:
    torch.ones(3, dtype=torch.long).float().softmax(0)


def in_single(_folder: Path) -> None:
    torch.linalg.cholesky(torch.eye(2).half().float())


def one_dtype(_folder: Path) -> None:
    torch.zeros(1, 2, 3).bmm(torch.from_numpy(np.zeros((1, 3, 2))).float())


def copied(_folder: Path) -> None:
    torch.from_numpy(np.ones((8, 8, 3))[..., ::-1].copy())


CURED: Mapping[str, Raises] = {
    "channels-last": converted,
    "missing-batch-dimension": a_batch,
    "linear-input-size": right_size,
    "image-too-small": larger,
    "batch-norm-of-one-value": last_dropped,
    "label-out-of-range": from_zero,
    "in-place-on-integers": not_in_place,
    "operation-without-integers": as_float,
    "operation-without-half": in_single,
    "scalar-types-that-differ": one_dtype,
    "array-that-is-reversed": copied,
}

"""Errors of data sets, loaders, shapes, dtypes and targets; and what cures them."""

from __future__ import annotations

import importlib
import io
import os
import resource
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from known_errors import Known, Recorded
from luthier import vision

transforms = vision.load("torchvision.transforms")

torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL = 0.1  # s; a loader that failed waits so long


class Samples(Dataset[Any]):
    """A data set that calls a function for a sample."""

    def __init__(self, sample: Callable[[int], object], length: int = 4) -> None:
        self.sample = sample
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> object:
        return self.sample(index)


def picture(mode: str = "RGB", size: int = 8) -> Any:
    return Image.new(mode, (size, size))


def first(dataset: Any, **options: Any) -> object:
    return next(iter(DataLoader(dataset, **({"batch_size": 2} | options))))


# Samples → a batch.


def of_a_batch(_folder: Path) -> None:
    first([torch.zeros(3, 8, 8), torch.zeros(3, 8, 9)])


def of_a_batch_in_a_worker(_folder: Path) -> None:
    first([torch.zeros(3, 8, 8), torch.zeros(3, 8, 9)], num_workers=1)


def of_arrays(_folder: Path) -> None:
    first([(np.zeros((2, 3)), 0), (np.zeros((2, 4)), 1)])


def larger_first(_folder: Path) -> None:
    first([torch.zeros(3, 8, 9), torch.zeros(3, 8, 8)], num_workers=1)


def pil_images(_folder: Path) -> None:
    first([(picture(), 0), (picture(), 1)])


def pil_images_in_a_worker(_folder: Path) -> None:
    first([(picture(), 0), (picture(), 1)], num_workers=1)


def none_of_all(_folder: Path) -> None:
    first([None, None])


def none_for_an_image(_folder: Path) -> None:
    first([(None, 0), (None, 1)])


def none_among_pairs(_folder: Path) -> None:
    first([(torch.zeros(2), 0), None])


def objects(_folder: Path) -> None:
    first([object(), object()])


def arrays_of_texts(_folder: Path) -> None:
    first([np.array(["ant"]), np.array(["bee"])])


def lists(_folder: Path) -> None:
    first([([1, 2], 0), ([1, 2, 3], 1)])


def keys(_folder: Path) -> None:
    first([{"image": 1, "mask": 2}, {"image": 1}])


# Workers.


def worker_exits(_folder: Path) -> None:
    first(Samples(lambda _: os._exit(3)), num_workers=1)


def in_a_worker(number: int) -> Callable[[Path], object]:
    def raises(_folder: Path) -> None:
        first(Samples(lambda _: os.kill(os.getpid(), number)), num_workers=1)

    raises.__name__ = signal.Signals(number).name.lower()
    return raises


def spawned(dataset: Any) -> None:
    with warnings.catch_warnings():  # torch warns ahead of a data set that it cannot send
        warnings.simplefilter("ignore")
        first(dataset, num_workers=1, multiprocessing_context="spawn")


def local_class(_folder: Path) -> None:
    class Local(Samples):
        pass

    spawned(Local(int))


def lambda_of_a_worker(_folder: Path) -> None:
    spawned(Samples(lambda i: i))


def lock(_folder: Path) -> None:
    dataset = Samples(int)
    dataset.lock = threading.Lock()  # type: ignore[attr-defined]
    spawned(dataset)


def open_file(folder: Path) -> None:
    dataset = Samples(int)
    with (folder / "data.bin").open("wb") as file:
        dataset.file = file  # type: ignore[attr-defined]
        spawned(dataset)


@contextmanager
def few_files(more: int) -> Iterator[None]:
    """Let this process open only a few files more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def files_of_batches(_folder: Path) -> None:
    dataset = Samples(lambda _: torch.ones(3), length=16)
    batches = iter(DataLoader(dataset, batch_size=1, num_workers=1))
    with few_files(3):
        list(batches)


def files_of_workers(_folder: Path) -> None:
    with few_files(1):
        first(Samples(int), num_workers=1)


def shared_memory_full(_folder: Path) -> None:
    torch.UntypedStorage._new_shared(2**50, device="cpu")


def workers_in_a_worker(_folder: Path) -> None:
    inner = Samples(int)
    first(Samples(lambda _: first(inner, num_workers=1)), num_workers=1)


def slow_worker(_folder: Path) -> None:
    first(Samples(lambda _: time.sleep(60)), num_workers=1, timeout=0.2)


def prefetch_factor(_folder: Path) -> None:
    DataLoader(Samples(int), prefetch_factor=2)


def persistent_workers(_folder: Path) -> None:
    DataLoader(Samples(int), persistent_workers=True)


def timeout(_folder: Path) -> None:
    first(Samples(int), timeout=5)


# Data sets.


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(4))


class WithoutLength(Dataset[int]):
    def __getitem__(self, index: int) -> int:
        return index


class Tensors(Dataset[Any]):
    """A data set with a length that is wrong."""

    def __init__(self) -> None:
        self.images = torch.zeros(2, 3)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.images[index]


def empty(_folder: Path) -> None:
    DataLoader(Samples(int, length=0), shuffle=True)


def without_length(_folder: Path) -> None:
    first(WithoutLength())


def shuffled_without_length(_folder: Path) -> None:
    DataLoader(WithoutLength(), shuffle=True)


def shuffled_stream(_folder: Path) -> None:
    DataLoader(Stream(), shuffle=True)


def shuffled_sampler(_folder: Path) -> None:
    DataLoader(Samples(int), sampler=[0], shuffle=True)


def subset(_folder: Path) -> None:
    first(Subset([1, 2, 3], [0, 7]))  # type: ignore[arg-type]


def subset_in_a_worker(_folder: Path) -> None:
    first(Subset([1, 2, 3], [0, 7]), num_workers=1)  # type: ignore[arg-type]


def length(_folder: Path) -> None:
    list(DataLoader(Tensors(), batch_size=2))


def split(_folder: Path) -> None:
    torch.utils.data.random_split(Samples(int), [1, 2])


def unequal_tensors(_folder: Path) -> None:
    images, labels = torch.zeros(3, 2), torch.zeros(2)
    torch.utils.data.TensorDataset(images, labels)


# Images and layers.


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


def transformed(transform: Callable[[], Any], image: Callable[[], object]) -> Callable[[Path], Any]:
    """Return what applies a transform to an image."""

    def raises(_folder: Path) -> None:
        apply = transform()
        apply(image())

    return raises


def normalize() -> Any:
    return transforms.Normalize([0.5] * 3, [0.5] * 3)


def normalize_v2() -> Any:
    return vision.load("torchvision.transforms.v2").Normalize([0.5] * 3, [0.5] * 3)


def matrices(_folder: Path) -> None:
    a, b = torch.zeros(2, 3), torch.zeros(2, 3)
    a @ b


def view(_folder: Path) -> None:
    features = torch.zeros(4, 16, 5, 5)
    features.view(-1, 256)


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


def no_image(folder: Path) -> None:
    path = folder / "ant.jpg"
    path.write_bytes(b"<html>")
    Image.open(path)


def no_bytes(_folder: Path) -> None:
    Image.open(io.BytesIO())


def truncated(folder: Path) -> None:
    Image.effect_noise((64, 64), 50).save(folder / "ant.jpg")
    whole = (folder / "ant.jpg").read_bytes()
    (folder / "ant.jpg").write_bytes(whole[: len(whole) // 2])
    with Image.open(folder / "ant.jpg") as image:
        image.convert("RGB")


def bomb(folder: Path) -> None:
    Image.new("L", (33, 11)).save(folder / "ant.png")
    most, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, 100
    try:
        Image.open(folder / "ant.png")
    finally:
        Image.MAX_IMAGE_PIXELS = most


def image_folder(folder: Path) -> None:
    vision.load("torchvision.datasets").ImageFolder(str(folder))


def empty_class(folder: Path) -> None:
    (folder / "ants").mkdir()
    image_folder(folder)


def missing_folder(folder: Path) -> None:
    image_folder(folder / "hymenoptera")


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


def mean_of_answers(_folder: Path) -> None:
    right = torch.tensor([True, False])
    right.mean()


def array(make: Callable[[], Any]) -> Callable[[Path], object]:
    def raises(_folder: Path) -> None:
        values = make()
        torch.from_numpy(values)

    return raises


def reversed_in_a_loader(_folder: Path) -> None:
    first([np.zeros((8, 8, 3))[..., ::-1]] * 2)


def unequal_rows(_folder: Path) -> None:
    torch.tensor([[1, 2], [3]])


def tensors_in_a_list(_folder: Path) -> None:
    rows = [torch.ones(2), torch.ones(2)]
    torch.tensor(rows)


def concatenated(_folder: Path) -> None:
    torch.cat([torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 7, 7)], dim=1)


def stacked(_folder: Path) -> None:
    torch.stack([torch.zeros(2), torch.zeros(3)])


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


def past_a_dimension(_folder: Path) -> None:
    torch.zeros(3)[torch.tensor([5])]


def gathered(_folder: Path) -> None:
    torch.zeros(2, 3).gather(1, torch.tensor([[3], [0]]))


def not_broadcast(_folder: Path) -> None:
    torch.zeros(4, 5) + torch.zeros(4, 6)


CLASSES, BINARY = nn.CrossEntropyLoss(), nn.BCEWithLogitsLoss()

KNOWN: Known = {
    "samples-of-unequal-size": [of_a_batch, of_a_batch_in_a_worker, of_arrays],
    "samples-larger-than-the-rest": [larger_first],
    "samples-that-are-pil-images": [pil_images, pil_images_in_a_worker],
    "samples-that-are-none": [none_of_all, none_for_an_image, none_among_pairs],
    "samples-that-are-objects": [objects, arrays_of_texts],
    "samples-of-unequal-length": [lists],
    "samples-of-different-keys": [keys],
    "worker-out-of-shared-memory": [in_a_worker(signal.SIGBUS)],
    "worker-out-of-memory": [in_a_worker(signal.SIGKILL)],
    "worker-segmentation-fault": [in_a_worker(signal.SIGSEGV)],
    "worker-ended-by-a-signal": [in_a_worker(signal.SIGUSR1)],
    "worker-exited": [worker_exits],
    "local-object-in-a-worker": [local_class, lambda_of_a_worker],
    "open-handle-in-a-worker": [lock, open_file],
    "too-many-open-files": [files_of_batches, files_of_workers],
    "shared-memory-full": [shared_memory_full],
    "workers-in-a-worker": [workers_in_a_worker],
    "loader-timed-out": [slow_worker],
    "option-without-workers": [prefetch_factor, persistent_workers, timeout],
    "data-set-without-samples": [empty],
    "data-set-without-length": [without_length, shuffled_without_length],
    "sampler-and-shuffle": [shuffled_stream, shuffled_sampler],
    "index-past-the-data-set": [subset, subset_in_a_worker, length],
    "split-lengths": [split],
    "tensors-of-unequal-length": [unequal_tensors],
    "channels-last": [given(Net(), 2, 8, 8, 3), given(nn.Conv2d(3, 4, 3), 8, 8, 3)],
    "image-channels": [given(Net(), 2, 1, 8, 8), given(Net(), 2, 4, 8, 8)],
    "layer-channels": [given(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(8, 4, 1)), 1, 3, 8, 8)],
    "norm-channels": [
        given(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(8)), 1, 3, 8, 8),
        given(nn.LayerNorm(3), 2, 4),
        given(nn.GroupNorm(1, 3), 2, 4),
    ],
    "missing-batch-dimension": [given(Net(), 3, 8, 8)],
    "input-of-other-dimensions": [
        given(nn.Conv2d(1, 4, 3), 2, 64),
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
    "view-of-another-size": [view],
    "view-of-scattered-memory": [transposed_view],
    "vit-image-size": [vit, vit_of_timm],
    "batch-norm-of-one-value": [one_left_over, given(nn.BatchNorm2d(3), 1, 3, 1, 1)],
    "normalize-channels": [
        transformed(normalize, lambda: torch.zeros(1, 8, 8)),
        transformed(normalize, lambda: torch.zeros(4, 8, 8)),
        transformed(normalize_v2, lambda: torch.zeros(4, 8, 8)),
    ],
    "normalize-of-channels-last": [transformed(normalize, lambda: torch.zeros(8, 8, 3))],
    "normalize-of-integers": [
        transformed(normalize, lambda: torch.zeros(3, 8, 8, dtype=torch.uint8)),
        transformed(normalize_v2, lambda: torch.zeros(3, 8, 8, dtype=torch.uint8)),
    ],
    "normalize-of-an-image": [transformed(normalize, picture), transformed(normalize_v2, picture)],
    "to-tensor-of-a-tensor": [transformed(transforms.ToTensor, lambda: torch.zeros(3, 8, 8))],
    "to-tensor-of-no-image": [transformed(transforms.ToTensor, lambda: "ant.jpg")],
    "transform-of-an-array": [
        transformed(lambda: transforms.Resize(4), lambda: np.zeros((8, 8, 3))),
        transformed(lambda: transforms.RandomHorizontalFlip(1), lambda: np.zeros((8, 8, 3))),
    ],
    "crop-larger-than-the-image": [transformed(lambda: transforms.RandomCrop(16), picture)],
    "not-an-image": [no_image, no_bytes],
    "truncated-image": [truncated],
    "image-too-large": [bomb],
    "class-without-images": [empty_class],
    "folder-without-classes": [image_folder],
    "missing-data-folder": [missing_folder],
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
    "mean-of-integers": [mean_of_answers],
    "array-of-another-type": [
        array(lambda: np.array([[1, 2], [3]], dtype=object)),
        array(lambda: np.array(["ant"])),
    ],
    "array-that-is-reversed": [array(lambda: np.ones(3)[::-1]), reversed_in_a_loader],
    "array-of-foreign-bytes": [array(lambda: np.zeros(3, dtype=">f4"))],
    "list-of-unequal-rows": [unequal_rows],
    "list-of-tensors": [tensors_in_a_list],
    "sizes-to-concatenate": [concatenated],
    "sizes-to-stack": [stacked],
    "rnn-input-size": [given(nn.LSTM(3, 2), 1, 2, 4)],
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
    "index-out-of-bounds": [past_a_dimension, gathered],
    "shapes-that-do-not-broadcast": [not_broadcast],
}
RECORDED: Recorded = {
    "missing-main-guard": ["missing_guard", "missing_guard_and_parent"],
    "class-not-in-the-main-module": ["class_of_a_prompt", "class_of_a_prompt_and_parent"],
    "shared-memory-gone": ["shared_memory_gone"],
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
    "too-many-open-files": ["ancdata"],
}

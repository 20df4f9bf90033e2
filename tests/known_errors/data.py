"""Errors of data sets, loaders, their workers, and files of images."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset

from known_errors import Known, Raises, Recorded
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


def of_a_collate_function_of_ones_own(_folder: Path) -> None:
    def collateFunction(samples: list[torch.Tensor]) -> torch.Tensor:  # noqa: N802 - as people do
        return torch.stack(samples)

    images = [torch.zeros(3, 8, 8), torch.zeros(3, 8, 9)]
    next(iter(DataLoader(images, batch_size=2, collate_fn=collateFunction)))  # type: ignore[arg-type]


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


def none_among_tensors(_folder: Path) -> None:
    first([torch.zeros(2), None])


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
    spare = [os.dup(0) for _ in range(100)]  # takes the numbers that are free in between
    for number in spare[100 - more :]:
        os.close(number)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(spare) + 1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for number in spare[: 100 - more]:
            os.close(number)


def files_of_batches(_folder: Path) -> None:
    dataset = Samples(lambda _: torch.ones(3), length=16)
    batches = iter(DataLoader(dataset, batch_size=1, num_workers=1))
    with few_files(3):
        list(batches)


def files_of_shared_tensors(_folder: Path) -> None:
    with few_files(0):
        torch.ones(3).share_memory_()


def shared_memory_full(_folder: Path) -> None:
    torch.UntypedStorage._new_shared(2**50, device="cpu")


def workers_in_a_worker(_folder: Path) -> None:
    inner = Samples(int)
    first(Samples(lambda _: first(inner, num_workers=1)), num_workers=1)


def slow_worker(_folder: Path) -> None:
    first(Samples(lambda _: time.sleep(60)), num_workers=1, timeout=0.2)


# Data sets.


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


def subset(_folder: Path) -> None:
    first(Subset([1, 2, 3], [0, 7]))  # type: ignore[arg-type]


def subset_in_a_worker(_folder: Path) -> None:
    first(Subset([1, 2, 3], [0, 7]), num_workers=1)  # type: ignore[arg-type]


def length(_folder: Path) -> None:
    list(DataLoader(Tensors(), batch_size=2))


# Images.


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


def truncated_in_a_folder(folder: Path) -> None:
    (folder / "ants").mkdir()
    with contextlib.suppress(OSError):
        truncated(folder / "ants")
    datasets = vision.load("torchvision.datasets")
    datasets.ImageFolder(str(folder))[0]


def bomb(folder: Path) -> None:
    Image.new("L", (33, 11)).save(folder / "ant.png")
    most, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, 100
    try:
        Image.open(folder / "ant.png")
    finally:
        Image.MAX_IMAGE_PIXELS = most


def image_folder(folder: Path) -> None:
    vision.load("torchvision.datasets").ImageFolder(str(folder))


def missing_image(_folder: Path) -> None:
    first(Samples(lambda _: Image.open("ant.jpg")))


def empty_class(folder: Path) -> None:
    (folder / "ants").mkdir()
    image_folder(folder)


def missing_folder(folder: Path) -> None:
    image_folder(folder / "hymenoptera")


KNOWN: Known = {
    "samples-of-unequal-size": [
        of_a_batch,
        of_a_batch_in_a_worker,
        of_arrays,
        of_a_collate_function_of_ones_own,
    ],
    "samples-larger-than-the-rest": [larger_first],
    "samples-that-are-pil-images": [pil_images, pil_images_in_a_worker],
    "samples-that-are-none": [none_of_all, none_for_an_image, none_among_pairs, none_among_tensors],
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
    "too-many-open-files": [files_of_batches, files_of_shared_tensors],
    "shared-memory-full": [shared_memory_full],
    "workers-in-a-worker": [workers_in_a_worker],
    "loader-timed-out": [slow_worker],
    "data-set-without-samples": [empty],
    "data-set-without-length": [without_length, shuffled_without_length],
    "index-past-the-data-set": [subset, subset_in_a_worker, length],
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
    "truncated-image": [truncated, truncated_in_a_folder],
    "image-too-large": [bomb],
    "class-without-images": [empty_class],
    "folder-without-classes": [image_folder],
    "missing-data-folder": [missing_folder],
    "missing-image": [missing_image],
}
RECORDED: Recorded = {
    "missing-main-guard": ["missing_guard", "missing_guard_and_parent"],
    "class-not-in-the-main-module": ["class_of_a_prompt", "class_of_a_prompt_and_parent"],
    "shared-memory-gone": ["shared_memory_gone"],
    "too-many-open-files": ["ancdata", "files_of_workers"],
}


def a_resize(_folder: Path) -> None:
    same = transforms.Compose([transforms.Resize(8), transforms.CenterCrop(8)])
    first([same(torch.zeros(3, 8, 12)), same(torch.zeros(3, 9, 8))])


def a_resize_in_a_worker(_folder: Path) -> None:
    same = transforms.Compose([transforms.Resize(8), transforms.CenterCrop(8)])
    first([same(torch.zeros(3, 8, 12)), same(torch.zeros(3, 9, 8))], num_workers=1)


def to_tensors(_folder: Path) -> None:
    to_tensor = transforms.Compose([transforms.CenterCrop(4), transforms.ToTensor()])
    first([(to_tensor(picture()), 0), (to_tensor(picture()), 1)])


def same_keys(_folder: Path) -> None:
    first([{"image": 1, "mask": 2}, {"image": 1, "mask": 0}])


def copies(_folder: Path) -> None:
    batches = iter(DataLoader(Samples(lambda _: torch.ones(3), 16), batch_size=1, num_workers=1))
    with few_files(20):
        [batch.clone() for batch in batches]


def inner_without_workers(_folder: Path) -> None:
    inner = Samples(int)
    first(Samples(lambda _: first(inner)), num_workers=1)


def a_length(_folder: Path) -> None:
    tensors = Tensors()
    first(Subset(tensors, range(len(tensors.images))))


def rgb(_folder: Path) -> None:
    for mode in ("L", "RGBA"):
        normalize()(transforms.ToTensor()(picture(mode).convert("RGB")))


def channels_first(_folder: Path) -> None:
    normalize()(torch.zeros(8, 8, 3).movedim(-1, -3))


def floats(_folder: Path) -> None:
    image = torch.full((3, 8, 8), 255, dtype=torch.uint8)
    image = transforms.ConvertImageDtype(torch.float32)(image)
    assert image.max() == 1
    normalize()(image)


def tensor_ahead(_folder: Path) -> None:
    transforms.Compose([transforms.ToTensor(), normalize()])(picture())


def from_array(_folder: Path) -> None:
    steps = [transforms.ToPILImage(), transforms.Resize(224), transforms.ToTensor()]
    transforms.Compose(steps)(np.zeros((8, 8, 3), dtype=np.uint8))


def empty_allowed(folder: Path) -> None:
    (folder / "ants").mkdir()
    (folder / "bees").mkdir()
    picture().save(folder / "bees" / "bee.jpg")
    datasets = vision.load("torchvision.datasets")
    assert len(datasets.ImageFolder(str(folder), allow_empty=True).classes) == 2


CURED: Mapping[str, Raises] = {
    "samples-of-unequal-size": a_resize,
    "samples-larger-than-the-rest": a_resize_in_a_worker,
    "samples-that-are-pil-images": to_tensors,
    "samples-of-different-keys": same_keys,
    "too-many-open-files": copies,
    "workers-in-a-worker": inner_without_workers,
    "index-past-the-data-set": a_length,
    "normalize-channels": rgb,
    "normalize-of-channels-last": channels_first,
    "normalize-of-integers": floats,
    "normalize-of-an-image": tensor_ahead,
    "transform-of-an-array": from_array,
    "class-without-images": empty_allowed,
}

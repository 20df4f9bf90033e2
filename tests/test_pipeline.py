"""From files to batches: what is decoded, kept, cut and normalised, and what changes no bit."""

from __future__ import annotations

import math
import os
import random
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import write_photos
from luthier import vision
from luthier.data import (
    Augment,
    Batches,
    Decoded,
    Photos,
    Sample,
    decode,
    decoded_edge,
    list_images,
    open_photos,
    preprocess,
)
from luthier.data.crew import Crew
from luthier.data.order import order
from luthier.data.rendering import centre, cut
from luthier.data.views import Box, draw_view
from luthier.errors import DataError
from luthier.keys import key
from luthier.values import Preprocessing

SMALL = Preprocessing(10, 8, "bilinear", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
MUCH = 2**30


def looks(size: int, resize: int | None = None, interpolation: str = "bilinear") -> Preprocessing:
    """Return a preprocessing whose batches are grey levels."""
    grey = (1 / 255, 1 / 255, 1 / 255)
    return Preprocessing(resize or size, size, interpolation, (0.0, 0.0, 0.0), grey)


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    """Return an image with detail at every scale and in every channel, of middling contrast."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(80, 176, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    fine = generator.integers(-20, 20, (height, width, 3))
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height))).astype(int)
    return Image.fromarray((smooth + fine).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str) -> bytes:
    file = BytesIO()
    image.save(file, kind, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {}))
    return file.getvalue()


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Seven images of two classes."""
    root = write_photos(tmp_path_factory.mktemp("samples"), {"x": 4, "y": 3}, size=16)
    return [Sample(path, "xy".index(path.parent.name)) for path in sorted(root.glob("*/*.png"))]


PLAIN = Augment()
EVERYTHING = Augment.of("crop-flip", color_jitter=0.4, rand_augment=9, erase=0.5)


def batches(samples: list[Sample], augment: Augment | None = PLAIN, **how: Any) -> Batches:
    return Batches(samples, SMALL, augment, **({"batch_size": 2, "seed": 5, "shuffle": True} | how))


def bits(epoch: Any) -> list[tuple[bytes, list[int]]]:
    return [(images.numpy().tobytes(), labels.tolist()) for images, labels in epoch]


def kept(how: Preprocessing = SMALL, memory: int = MUCH) -> Decoded:
    return Decoded(decoded_edge(how), memory=memory)


# --- decoding -----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 400), st.integers(1, 400), st.integers(1, 120), st.sampled_from(["JPEG", "PNG"])
)
def test_a_photo_is_reduced_as_far_as_its_shorter_edge_allows(
    height: int, width: int, shortest: int, kind: str
) -> None:
    whole = decode(encoded(Image.new("RGB", (width, height), (200, 60, 30)), kind))
    reduced = decode(encoded(whole, kind), shortest)
    assert min(reduced.size) >= min(shortest, height, width)
    factor = 1
    while min(height, width) // (2 * factor) >= shortest:
        factor *= 2
    assert reduced.size == (math.ceil(width / factor), math.ceil(height / factor))
    assert reduced.getpixel((0, 0)) == pytest.approx((200, 60, 30), abs=3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_reduced_photo_is_the_mean_of_its_pixels_in_colour(kind: str) -> None:
    whole = noise(512, 768)
    reduced = np.asarray(decode(encoded(whole, kind), 128)).astype(int)
    assert reduced.shape == (128, 192, 3)
    difference = reduced - np.asarray(whole.reduce(4)).astype(int)
    assert abs(difference.mean(axis=(0, 1))).max() < 1
    assert abs(difference).mean() < 4


def test_the_smallest_crop_of_a_reduced_photo_fills_the_square() -> None:
    assert decoded_edge(looks(224, 256)) == 784
    assert decoded_edge(looks(100, 400)) == 400
    assert math.sqrt(0.08) * decoded_edge(looks(224)) == pytest.approx(224, rel=0.02)


# --- views --------------------------------------------------------------------------------------


@given(st.integers(0, 2**63 - 1), st.integers(1, 5000), st.integers(1, 5000), st.booleans())
def test_a_view_lies_in_its_photo_and_depends_on_its_key(
    number: int, height: int, width: int, flip: bool
) -> None:
    view = draw_view(number, height, width, Augment(flip=flip))
    top, left, tall, wide = view.box
    assert 0 <= top <= top + tall <= height
    assert 0 <= left <= left + wide <= width
    assert min(tall, wide) >= 1
    assert flip or not view.flip
    assert view == draw_view(number, height, width, Augment(flip=flip))
    assert draw_view(number, height, width, Augment(crop=False, flip=flip)) == (
        Box(0, 0, height, width),
        view.flip,
    )


@pytest.mark.parametrize("shape", [(300, 400), (240, 900), (500, 140)])
def test_views_are_distributed_as_torchvisions(shape: tuple[int, int]) -> None:
    t = vision.load("torchvision.transforms").RandomResizedCrop
    photo = Image.new("RGB", (shape[1], shape[0]))
    count = 4000
    ours = np.array([draw_view(key(0, "view", i), *shape, Augment()).box for i in range(count)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = np.array([t.get_params(photo, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(count)])
    for of in (
        lambda b: b[:, 2] * b[:, 3] / math.prod(shape),  # area
        lambda b: np.log(b[:, 3] / b[:, 2]),  # shape
        lambda b: b[:, 0],
        lambda b: b[:, 1],
        lambda b: b[:, 0] + b[:, 2],
        lambda b: b[:, 1] + b[:, 3],
    ):
        assert distance(of(ours), of(theirs)) < 1.95 * math.sqrt(2 / count)  # p = 0.001


def distance(a: Any, b: Any) -> float:
    """Return the largest distance of two empirical distributions (Kolmogorov-Smirnov)."""
    values = np.unique(np.concatenate([a, b]))
    below = [np.searchsorted(np.sort(one), values, side="right") / len(one) for one in (a, b)]
    return float(abs(below[0] - below[1]).max())


def test_every_other_view_is_mirrored() -> None:
    flips = [draw_view(key(0, "view", i), 30, 40, Augment()).flip for i in range(4000)]
    assert sum(flips) == pytest.approx(2000, abs=4 * math.sqrt(1000))


@pytest.mark.parametrize("shape", [(10, 1000), (1000, 10), (3, 60), (1, 1), (1, 900)])
def test_a_photo_that_no_crop_fits_shows_its_centre_as_torchvisions(shape: tuple[int, int]) -> None:
    t = vision.load("torchvision.transforms").RandomResizedCrop
    theirs = t.get_params(Image.new("RGB", shape[::-1]), (0.08, 1.0), (3 / 4, 4 / 3))
    assert {draw_view(number, *shape, PLAIN).box for number in range(20)} == {theirs}


# --- rendering ----------------------------------------------------------------------------------

# How far apart roundings may take two of them; torch and Pillow both compute in integers.
LEVELS = {"bilinear": 1, "bicubic": 2}
INTERPOLATIONS = st.sampled_from(list(LEVELS))


@settings(deadline=None, max_examples=25)
@given(st.integers(8, 300), st.integers(8, 300), st.integers(0, 999), INTERPOLATIONS)
def test_a_cut_is_torchvisions_to_the_rounding(
    height: int, width: int, number: int, interpolation: str
) -> None:
    t = vision.load("torchvision.transforms")
    photo, how = noise(height, width, number), looks(48, interpolation=interpolation)
    box = draw_view(number, height, width, Augment()).box
    mode = t.InterpolationMode(interpolation)
    theirs = np.asarray(t.functional.resized_crop(photo, *box, [48, 48], mode)).astype(int)
    assert abs(cut(np.asarray(photo), box, how) - theirs).max() <= LEVELS[interpolation]


@settings(deadline=None, max_examples=25)
@given(st.integers(5, 200), st.integers(5, 200), st.integers(10, 70), INTERPOLATIONS)
def test_a_centre_is_torchvisions_to_the_rounding(
    height: int, width: int, resize: int, interpolation: str
) -> None:
    t = vision.load("torchvision.transforms")
    photo, how = noise(height, width), looks(48, resize, interpolation)
    steps = [t.Resize(resize, t.InterpolationMode(interpolation)), t.CenterCrop(48)]
    theirs = np.asarray(t.Compose(steps)(photo)).astype(int)
    ours = centre(np.asarray(photo), how)
    assert ours.shape == theirs.shape
    assert abs(ours - theirs).max() <= LEVELS[interpolation]


def test_validation_sees_the_centre_scaled_and_normalised() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    how = Preprocessing(30, 30, "bilinear", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    seen = preprocess(Image.fromarray(pixels), how)
    middle = pixels[:, 10:40].astype(np.float32) / 255
    expected = (middle - np.float32([0.5, 0.4, 0.3])) / np.float32([0.2, 0.3, 0.4])
    assert torch.allclose(seen, torch.from_numpy(expected).permute(2, 0, 1), atol=1e-5)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("shape", [(700, 900), (60, 40), (11, 300)])
def test_prediction_sees_what_validation_sees_to_the_bit(
    tmp_path: Path, kind: str, shape: tuple[int, int]
) -> None:
    how = Preprocessing(50, 43, "bilinear", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    content = encoded(noise(*shape), kind)
    path = tmp_path / "photo"
    path.write_bytes(content)
    loader = Batches([Sample(path, 0)] * 3, how, batch_size=3, workers=2, decoded=kept(how))
    predicted = preprocess(decode(content, decoded_edge(how)), how)
    for _ in range(2):
        ((images, _labels),) = loader.epoch()
        assert all(torch.equal(image, predicted) for image in images)
    loader.close()


# --- batches ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["crop-flip", "crop", "none"])
def test_only_asked_for_augmentation_is_random(tmp_path: Path, name: str) -> None:
    slope = Image.linear_gradient("L").rotate(90).resize((40, 40)).convert("RGB")
    assert slope.getpixel((1, 20)) < slope.getpixel((38, 20))
    slope.save(tmp_path / "slope.png")
    loader = batches([Sample(tmp_path / "slope.png", 0)] * 16, Augment.of(name), batch_size=16)
    ((views, _),) = loader.epoch()
    assert (len({view.numpy().tobytes() for view in views}) == 1) == (name == "none")
    flipped = [bool(view[0, :, 0].mean() > view[0, :, -1].mean()) for view in views]
    assert any(flipped) == (name == "crop-flip")
    assert not all(flipped)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_from_its_middle_is_the_tail_of_the_whole(
    samples: list[Sample], workers: int
) -> None:
    loader = batches(samples, workers=workers)
    whole = [bits(batches(samples).epoch(epoch)) for epoch in range(2)]
    assert loader.sizes() == [len(labels) for _, labels in whole[0]] == [2, 2, 3]
    assert whole[0] != whole[1]
    for epoch, first in ((0, 0), (1, 0), (1, 1), (1, 2), (0, 2), (0, 3)):
        assert bits(loader.epoch(epoch, first=first)) == whole[epoch][first:]


@pytest.mark.parametrize("ahead", [0, 2])
def test_an_epoch_that_was_given_up_leaves_no_trace(samples: list[Sample], ahead: int) -> None:
    loader = batches(samples, workers=2)
    loader._ahead = ahead  # as for an accelerator
    started = loader.epoch(0)
    next(started)
    started.close()
    assert bits(loader.epoch(1)) == bits(batches(samples).epoch(1))


def test_the_order_of_an_epoch_is_that_of_its_key(samples: list[Sample]) -> None:
    labels = [label for _, batch in batches(samples).epoch(3) for label in batch.tolist()]
    assert labels == [samples[i].label for i in order(7, seed=5, epoch=3)]
    assert bits(batches(samples, seed=6).epoch(3)) != bits(batches(samples).epoch(3))


def test_augmentation_differs_by_sample_and_by_epoch(samples: list[Sample]) -> None:
    loader = batches([samples[0]] * 6, batch_size=1, shuffle=False)
    views = [view for epoch in range(2) for view, _ in bits(loader.epoch(epoch))]
    assert len(set(views)) == 12


def test_without_shuffling_images_come_as_listed(samples: list[Sample]) -> None:
    loader = Batches(samples, SMALL, batch_size=3)
    seen = list(loader.epoch())
    assert [label for _, batch in seen for label in batch.tolist()] == [s.label for s in samples]
    assert [tuple(images.shape) for images, _ in seen] == [(3, 3, 8, 8), (4, 3, 8, 8)]
    assert {(images.dtype, labels.dtype) for images, labels in seen} == {
        (torch.float32, torch.int64)
    }
    assert all(i.is_contiguous(memory_format=torch.channels_last) for i, _ in seen)
    assert bits(loader.epoch(1)) == bits(loader.epoch(0))


def test_batches_do_not_depend_on_the_global_generators(samples: list[Sample]) -> None:
    seen = []
    for start in (1, 2):
        random.seed(start)
        np.random.seed(start)
        torch.manual_seed(start)
        seen.append(bits(batches(samples, EVERYTHING).epoch(1)))
    assert seen[0] == seen[1]


@settings(deadline=None, max_examples=15)
@given(
    workers=st.integers(0, 3),
    ahead=st.integers(0, 4),
    memory=st.sampled_from([0, 1000, 2000, MUCH]),
    disk=st.sampled_from([0, 1000, 2000, MUCH]),
    inspected=st.booleans(),
    augment=st.sampled_from([None, Augment(), EVERYTHING, Augment(crop=False)]),
)
def test_workers_caches_and_reading_ahead_change_no_bit(
    photos: Path, tmp_path_factory: pytest.TempPathFactory, augment: Augment | None, **chance: Any
) -> None:
    plain = open_photos(list_images(photos)).val
    expected = [bits(batches(list(plain), augment).epoch(epoch)) for epoch in (0, 1)]
    cache = kept(memory=chance["memory"])
    found = open_photos(list_images(photos), decoded=cache if chance["inspected"] else None).val
    cache.spill_to(tmp_path_factory.mktemp("spill"), chance["disk"])
    loader = batches(list(found), augment, workers=chance["workers"], decoded=cache)
    loader._ahead = chance["ahead"]
    assert [bits(loader.epoch(epoch)) for epoch in (0, 1)] == expected
    loader.close()
    cache.close()


def test_what_a_sample_becomes_does_not_depend_on_its_batch(samples: list[Sample]) -> None:
    rows = [
        torch.cat([images for images, _ in batches(samples, EVERYTHING, batch_size=size).epoch(2)])
        for size in (1, 2, 7)
    ]
    assert torch.equal(rows[0], rows[1])
    assert torch.equal(rows[0], rows[2])


def test_erased_rectangles_have_the_mean(samples: list[Sample]) -> None:
    always = Augment(crop=False, flip=False, erase=1.0)
    for (images, _), (plain, _) in zip(
        batches(samples, always).epoch(), batches(samples, None).epoch(), strict=True
    ):
        changed = (images - plain).abs() > 1e-4
        assert changed.flatten(1).any(1).all()
        assert images[changed].abs().max() < 1e-6


# --- what is kept -------------------------------------------------------------------------------


def test_a_run_decodes_each_photo_once(photos: Path) -> None:
    cache = kept()
    found = open_photos(list_images(photos), decoded=cache)
    assert cache.decodes == 28 + 11
    learn, look = (
        batches(list(found.train), decoded=cache),
        batches(list(found.val), None, decoded=cache),
    )
    for epoch in range(3):
        bits(learn.epoch(epoch))
        bits(look.epoch(epoch))
    assert cache.decodes == 28 + 11


@pytest.mark.parametrize("memory", [0, 9 * 40 * 40 * 3])
def test_what_memory_cannot_hold_is_kept_on_the_disk(
    photos: Path, tmp_path: Path, memory: int
) -> None:
    found = open_photos(list_images(photos)).train
    cache = kept(memory=memory)
    loader = batches(list(found), workers=2, decoded=cache)
    cache.spill_to(tmp_path, MUCH)
    for epoch in range(3):
        assert bits(loader.epoch(epoch)) == bits(batches(list(found)).epoch(epoch))
    assert cache.decodes == len(found)
    assert list(tmp_path.iterdir()) == []  # it has no name: nothing is left, whatever happens
    loader.close()


def test_what_fits_nowhere_is_decoded_each_time(photos: Path) -> None:
    found = open_photos(list_images(photos)).train
    photo = 40 * 40 * 3
    cache = kept(memory=10 * photo)
    loader = batches(list(found), decoded=cache)
    for epoch in range(3):
        bits(loader.epoch(epoch))
    assert cache.decodes == 3 * len(found) - 2 * 10


@contextmanager
def full_disk(free: int) -> Iterator[None]:
    """Let no file become larger than ``free`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_only_costs_time(photos: Path, tmp_path: Path) -> None:
    found = list(open_photos(list_images(photos)).train)
    cache = kept(memory=0)
    cache.spill_to(tmp_path, MUCH)
    loader = batches(found, decoded=cache)
    with full_disk(10 * 40 * 40 * 3 + 7):
        seen = [bits(loader.epoch(epoch)) for epoch in range(2)]
    assert seen == [bits(batches(found).epoch(epoch)) for epoch in range(2)]
    assert cache.decodes == 2 * len(found) - 10


def test_a_folder_that_takes_no_file_only_costs_time(photos: Path, tmp_path: Path) -> None:
    found = list(open_photos(list_images(photos)).train)
    cache = kept(memory=0)
    cache.spill_to(tmp_path / "nowhere", MUCH)
    assert bits(batches(found, decoded=cache).epoch()) == bits(batches(found).epoch())


def test_validation_keeps_the_square_in_place_of_the_photo(photos: Path) -> None:
    cache = kept(memory=11 * 40 * 40 * 3)
    found = open_photos(list_images(photos)).val
    loader = batches(list(found), None, decoded=cache)
    bits(loader.epoch())
    room = 11 * (40 * 40 - 8 * 8) * 3
    cache.keep("more", np.zeros(room, np.uint8))
    assert cache.find("more") is not None
    cache.keep("one byte more", np.zeros(1, np.uint8))
    assert cache.find("one byte more") is None
    bits(loader.epoch())
    assert cache.decodes == 11


def test_photos_of_another_reduction_are_refused(samples: list[Sample]) -> None:
    with pytest.raises(ValueError, match=r"decoded to 99 pixels and more, expected .* 28"):
        batches(samples, decoded=Decoded(99, memory=0))


def test_batches_before_the_first_are_not_read(tmp_path: Path) -> None:
    root = write_photos(tmp_path, {"x": 7}, size=16)
    files = [Sample(path, 0) for path in sorted(root.glob("x/*.png"))]
    whole = bits(batches(files).epoch(2))
    for index in order(7, seed=5, epoch=2)[:4]:
        files[index].path.unlink()
    assert bits(batches(files, workers=2).epoch(2, first=2)) == whole[2:]


def looked_into(root: Path, **how: Any) -> Photos:
    write_photos(root / "train", {"a": 3, "b": 3}, size=16)
    write_photos(root / "val", {"a": 1, "b": 1}, size=16)
    return open_photos(list_images(root), **how)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "can no longer be read: No such file or directory"),
        (b"", "has other content than when the run began"),
        (encoded(Image.new("RGB", (16, 16)), "PNG"), "has other content than when the run began"),
    ],
)
def test_a_photo_that_changed_is_named_once_it_must_be_read_again(
    tmp_path: Path, content: bytes | None, says: str
) -> None:
    cache = kept()
    found = looked_into(tmp_path, decoded=cache)
    path = found.train[2].path
    whole = bits(batches(list(found.train)).epoch())
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert bits(batches(list(found.train), decoded=cache).epoch()) == whole
    for workers in (0, 2):
        with pytest.raises(DataError) as caught:
            bits(batches(list(found.train), workers=workers).epoch())
        assert str(caught.value).startswith(f"{path} {says}")


def test_a_photo_that_was_never_looked_into_and_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"words")
    with pytest.raises(DataError, match=r"a\.jpg is no longer an image: not an image: begins with"):
        bits(batches([Sample(tmp_path / "a.jpg", 0)]).epoch())


def test_a_photo_written_again_with_the_same_bytes_is_the_same(tmp_path: Path) -> None:
    found = looked_into(tmp_path)
    whole = bits(batches(list(found.train)).epoch())
    os.utime(found.train[0].path, (1, 1))
    assert bits(batches(list(found.train)).epoch()) == whole


# --- devices ------------------------------------------------------------------------------------


def test_a_device_that_holds_the_photos_shows_the_same_to_a_grey_level(photos: Path) -> None:
    found = list(open_photos(list_images(photos)).train)
    how = looks(16, 20)
    here = Batches(found, how, Augment(), batch_size=5, shuffle=True)
    there = Batches(found, how, Augment(), batch_size=5, shuffle=True, resident=MUCH)
    for epoch, first in ((0, 0), (1, 2)):
        pairs = zip(here.epoch(epoch, first), there.epoch(epoch, first), strict=True)
        for (ours, labels), (theirs, same) in pairs:
            assert torch.equal(labels, same)
            assert (ours - theirs).abs().max() <= 1.01
            assert (ours - theirs).abs().mean() < 0.4
            assert theirs.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("augment", "resident"),
    [(None, MUCH), (Augment(crop=False), MUCH), (Augment(), 28 * 40 * 40 * 3 - 1)],
    ids=["validation", "flip alone", "too small"],
)
def test_only_crops_of_photos_that_all_fit_are_cut_on_the_device(
    photos: Path, augment: Augment | None, resident: int
) -> None:
    found = list(open_photos(list_images(photos)).train)
    loader = batches(found, augment, resident=resident, workers=2)
    assert bits(loader.epoch(1)) == bits(batches(found, augment).epoch(1))


# --- threads ------------------------------------------------------------------------------------


def test_a_crews_threads_compute_alone_and_others_as_before() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        crew, seen = Crew(2), []
        crew.begin(lambda _: seen.append(torch.get_num_threads()), 8).finish()
        assert seen == [1] * 8
        assert torch.get_num_threads() == 3
        torch.ones(300_000).sum()
        later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        later.start()
        later.join()
        assert seen[-1] == 3
        crew.close()
    finally:
        torch.set_num_threads(before)


def test_an_error_in_a_part_is_raised_when_all_are_done() -> None:
    crew, done = Crew(2), []

    def part(number: int) -> None:
        if number == 0:
            raise KeyError(number)
        done.append(number)

    task = crew.begin(part, 9)
    with pytest.raises(KeyError):
        task.finish()
    assert done == list(range(1, 9))
    crew.begin(done.append, 1).finish()  # and it goes on
    assert done[-1] == 0
    crew.close()

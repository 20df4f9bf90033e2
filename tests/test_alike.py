"""Images that show the same: found, warned of, and never split apart."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from luthier.data import list_images, open_photos
from luthier.data.alike import alike, look_of, one_of_each
from luthier.data.split import folds_of
from luthier.errors import DataError

HEX = st.integers(0, 2**128 - 1).map(lambda number: f"{number:032x}")


def saved_again(image: Image.Image, quality: int) -> Image.Image:
    file = BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def look(image: Image.Image) -> str:
    return look_of(np.asarray(image.convert("RGB")))


def photos_of(shared: Path, count: int) -> list[Image.Image]:
    paths = sorted((shared / "hymenoptera").glob("*/*/*.jpg"))
    return [Image.open(path).convert("RGB") for path in paths[:: len(paths) // count]][:count]


def test_copies_are_found_and_different_photos_are_not(shared: Path) -> None:
    photos = photos_of(shared, 60)
    copies = [
        saved_again(photo.resize((photo.width // 2, photo.height // 2)), 60) for photo in photos
    ]
    found = alike(list(map(look, photos)), list(map(look, copies)))
    assert found is not None
    assert {i for i, j in found if i == j} >= set(range(60)) - {i for i, j in found if i != j}
    assert [pair for pair in found if pair[0] != pair[1]] == []
    assert len(found) >= 58  # 99 % of all photos


def test_what_shows_nothing_is_like_nothing() -> None:
    flat = look(Image.new("RGB", (40, 30), (200, 10, 10)))
    line = Image.new("RGB", (40, 30), "white")
    line.putpixel((3, 3), (0, 0, 0))
    assert flat == look(line) == ""
    assert alike([flat, "0" * 32], ["", "f" * 32]) == []


@given(st.lists(HEX, max_size=12), st.lists(HEX, max_size=12))
def test_pairs_are_those_within_ten_comparisons(ours: list[str], theirs: list[str]) -> None:
    theirs = theirs + [f"{int(look, 16) ^ (2**10 - 1):032x}" for look in ours[::2]]
    theirs += [f"{int(look, 16) ^ (2**11 - 1):032x}" for look in ours[1::2]]
    wanted = [
        (i, j)
        for i, one in enumerate(ours)
        for j, other in enumerate(theirs)
        if (int(one, 16) ^ int(other, 16)).bit_count() <= 10
    ]
    assert alike(ours, theirs) == wanted


def test_too_many_are_not_compared() -> None:
    assert alike(["0" * 32] * 50_000, ["f" * 32] * 50_000) is None


def test_likeness_is_handed_on() -> None:
    start, step, other = 0, 2**9 - 1, 2**127
    looks = [f"{n:032x}" for n in (start, start ^ step, start ^ step ^ (step << 9), other ^ start)]
    assert one_of_each([*looks[:3], "f" * 32, ""], ["c", "b", "a", "z", "y"]) == [
        *("a", "a", "a"),
        *("z", "y"),
    ]


def test_a_copy_saved_another_way_is_warned_of(tmp_path: Path, shared: Path) -> None:
    photos = photos_of(shared, 4)
    for side, members in (("train", photos[:2]), ("val", photos[2:])):
        for label, photo in zip(("ants", "bees"), members, strict=True):
            path = tmp_path / side / label / "photo.jpg"
            path.parent.mkdir(parents=True)
            photo.save(path)
    assert open_photos(list_images(tmp_path)).notes == ()
    photos[0].resize((200, 200)).save(tmp_path / "val" / "ants" / "again.png")
    (note,) = open_photos(list_images(tmp_path)).notes
    assert note.startswith(
        "warning: 1 validation images are also training images, saved in another"
    )
    assert note.endswith("val/ants/again.png ~ train/ants/photo.jpg")


@pytest.mark.parametrize("fold", [None, (1, 2), (2, 2)])
def test_copies_saved_another_way_are_not_split_apart(
    tmp_path: Path, shared: Path, fold: tuple[int, int] | None
) -> None:
    for number, photo in enumerate(photos_of(shared, 12)):
        folder = tmp_path / ("ants" if number % 2 else "bees")
        folder.mkdir(exist_ok=True)
        photo.save(folder / f"{number}.png")
        photo.resize((150, 150)).save(folder / f"{number}-small.png")
    for seed in range(3):
        fraction = None if fold else 0.4
        photos = open_photos(list_images(tmp_path), val_fraction=fraction, fold=fold, seed=seed)
        assert photos.notes == ()
        assert len(photos.val) % 2 == len(photos.train) % 2 == 0
        assert len(photos.val) > 0


CLASSES = st.dictionaries(st.sampled_from("abc"), st.integers(1, 12), min_size=1)


@settings(deadline=None)
@given(CLASSES, st.integers(2, 5), st.integers(0, 3), st.integers(1, 3), st.randoms())
def test_folds_are_equal_and_stratified(classes, folds, seed, copies, shuffler) -> None:  # type: ignore[no-untyped-def]
    images = [(label, f"{label}{n}") for label, count in classes.items() for n in range(count)]
    shuffled = images * copies
    shuffler.shuffle(shuffled)
    parts = folds_of([c for c, _ in shuffled], [d for _, d in shuffled], folds, seed)
    by_image: dict[tuple[str, str], set[int]] = {}
    for image, part in zip(shuffled, parts, strict=True):
        by_image.setdefault(image, set()).add(part)
    assert all(len(of_one) == 1 for of_one in by_image.values())  # copies stay together
    fold = {image: part for image, (part,) in by_image.items()}
    for chosen in (images, *([i for i in images if i[0] == label] for label in classes)):
        sizes = [sum(fold[image] == part for image in chosen) for part in range(folds)]
        assert max(sizes) - min(sizes) <= 1
    again = folds_of([c for c, _ in images], [d for _, d in images], folds, seed)
    assert [fold[image] for image in images] == again  # neither order nor copies count


def test_folds_validate_every_image_once_whatever_its_split(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for side, count in (("train", 5), ("val", 4)):
        for label in ("x", "y"):
            for number in range(count):
                path = tmp_path / side / label / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = generator.integers(0, 256, (20, 20, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path)
    listing = list_images(tmp_path)
    seen = []
    for part in (1, 2, 3):
        photos = open_photos(listing, fold=(part, 3), seed=4)
        assert {s.path for s in photos.val}.isdisjoint(s.path for s in photos.train)
        assert len(photos.train) + len(photos.val) == 18
        seen += [sample.path for sample in photos.val]
    assert len(seen) == len(set(seen)) == 18
    again = open_photos(listing, fold=(1, 3), seed=5)
    assert {s.path for s in again.val} != set(seen[: len(again.val)])


def test_more_folds_than_images_leave_one_empty(tmp_path: Path) -> None:
    for label in ("x", "y"):
        for number in range(2):
            path = tmp_path / label / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (8, 8), (number, len(label), ord(label))).save(path)
    with pytest.raises(DataError, match="no readable validation image"):
        open_photos(list_images(tmp_path), fold=(9, 9))

"""Data: what is found, what is read, how it is split, in which order it comes."""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Callable
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
from luthier.data import Photos, Sample, decode, list_images, open_photos
from luthier.data.images import Inspection, inspect_all
from luthier.data.order import batch_bounds, order
from luthier.data.split import held_out
from luthier.errors import DataError
from luthier.keys import key
from luthier.randomness import keyed_randomness


def encoded(image: Image.Image, kind: str, **how: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def put(path: Path, content: bytes | None = None) -> Path:
    """Write a file, by default an image that no other path has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        colour = tuple(key(0, "colour", str(path)).to_bytes(8, "big")[-3:])
        content = encoded(Image.new("RGB", (12, 10), colour), "PNG")
    path.write_bytes(content)
    return path


def folder_of(root: Path, *names: str) -> Path:
    for name in names:
        put(root / name)
    return root


def names(samples: tuple[Sample, ...], root: Path) -> list[str]:
    return [sample.path.relative_to(root).as_posix() for sample in samples]


def inspected(path: Path) -> Inspection:
    (found,) = inspect_all([path])
    return found


def opened(root: Path, **how: Any) -> Photos:
    return open_photos(list_images(root), **how)


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        act()
    return str(caught.value)


@pytest.mark.parametrize("held_out_name", ["val", "valid", "validation", "test"])
def test_train_beside_a_validation_folder_is_a_split(tmp_path: Path, held_out_name: str) -> None:
    folder_of(tmp_path, "train/cat/a.png", "train/dog/b.png")
    folder_of(tmp_path, f"{held_out_name}/cat/c.png", f"{held_out_name}/dog/d.png")
    listing = list_images(tmp_path)
    assert listing.classes == ("cat", "dog")
    assert [(i.name, i.label, i.split) for i in listing.images] == [
        ("train/cat/a.png", "cat", "train"),
        ("train/dog/b.png", "dog", "train"),
        (f"{held_out_name}/cat/c.png", "cat", "val"),
        (f"{held_out_name}/dog/d.png", "dog", "val"),
    ]
    assert listing.notes == ()
    photos = opened(tmp_path)
    assert photos.val_fraction is None
    assert [s.label for s in photos.val] == [0, 1]
    assert photos.counts() == {"train": {"cat": 1, "dog": 1}, "val": {"cat": 1, "dog": 1}}


def test_val_goes_before_test_and_that_is_said(tmp_path: Path) -> None:
    both = [f"{split}/{label}/a.png" for split in ("train", "val", "test") for label in "xy"]
    listing = list_images(folder_of(tmp_path, *both))
    assert [i.name for i in listing.images if i.split == "val"] == ["val/x/a.png", "val/y/a.png"]
    assert listing.notes == ("validation images are those of val/; test/ is unused",)


@pytest.mark.parametrize("below", ["", "train/"])
def test_a_folder_without_a_split_is_split(tmp_path: Path, below: str) -> None:
    write_photos(tmp_path / below, {"cat": 10, "dog": 5}, size=8)
    photos = opened(tmp_path)
    assert photos.val_fraction == 0.2
    assert photos.counts() == {"train": {"cat": 8, "dog": 4}, "val": {"cat": 2, "dog": 1}}
    assert not set(names(photos.train, tmp_path)) & set(names(photos.val, tmp_path))
    assert ("train/ is split" in "".join(photos.notes)) == bool(below)


def test_the_split_follows_fraction_and_seed(tmp_path: Path) -> None:
    write_photos(tmp_path, {"cat": 10, "dog": 10}, size=8)
    halves = [opened(tmp_path, val_fraction=0.5, seed=seed).val for seed in (0, 0, 1)]
    assert len(halves[0]) == 10
    assert halves[0] == halves[1] != halves[2]


def test_a_class_named_train_is_a_class(tmp_path: Path) -> None:
    assert list_images(folder_of(tmp_path, "train/a.png", "bus/b.png")).classes == ("bus", "train")


@pytest.mark.parametrize(("suffix", "mark"), [(".csv", ","), (".tsv", "\t"), (".CSV", ",")])
def test_a_table_is_listed(tmp_path: Path, suffix: str, mark: str) -> None:
    folder_of(tmp_path, "a.png", "deep/b.png", "c.png", "d.png")
    rows = ["path|label|split", "a.png|dog|train", "deep/b.png|cat|Train", "c.png|dog|test"]
    table = put(
        tmp_path / f"table{suffix}", "\n".join([*rows, "d.png|cat|val"]).replace("|", mark).encode()
    )
    listing = list_images(table)
    assert listing.classes == ("cat", "dog")
    assert [(i.name, i.label, i.split) for i in listing.images] == [
        ("a.png", "dog", "train"),
        ("c.png", "dog", "val"),
        ("d.png", "cat", "val"),
        ("deep/b.png", "cat", "train"),
    ]
    photos = opened(table)
    assert names(photos.train, tmp_path) == ["a.png", "deep/b.png"]
    assert [s.label for s in photos.train] == [1, 0]


def test_a_table_of_a_spreadsheet_without_a_split_is_split(tmp_path: Path) -> None:
    rows = ["\ufeffid, path ,label", *(f"{i},{i}.png,{'xy'[i % 2]}" for i in range(10)), "", ""]
    folder_of(tmp_path, *(f"{i}.png" for i in range(10)))
    table = put(tmp_path / "table.csv", "\r\n".join(rows).encode())
    photos = opened(table)
    assert photos.counts() == {"train": {"x": 4, "y": 4}, "val": {"x": 1, "y": 1}}


def test_a_table_names_images_anywhere(tmp_path: Path) -> None:
    a, b = put(tmp_path / "x" / "a.png"), put(tmp_path / "y" / "b.png")
    table = put(tmp_path / "lists" / "t.csv", f"path,label\n{a},A\n../y/b.png,B\n".encode())
    assert {i.path.resolve() for i in list_images(table).images} == {a, b}


def test_the_order_of_a_tables_rows_means_nothing(tmp_path: Path) -> None:
    folder_of(tmp_path, *(f"{i}.png" for i in range(10)))
    rows = [f"{i}.png,{'xy'[i % 2]}" for i in range(10)]
    found = []
    for ordered in (rows, rows[::-1]):
        table = put(tmp_path / "table.csv", "\n".join(["path,label", *ordered]).encode())
        found.append((opened(table).train, opened(table).val))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "has the columns [], expected path, label"),
        ("file,class\na.png,x\n", "has the columns ['file', 'class'], expected path, label"),
        ("path,label\n", "lists no images"),
        ("path,label\na.png,x\n,y\n", "line 3: path and label must both be given"),
        ("path,label\na.png,x\nb.png, \n", "line 3: path and label must both be given"),
        ("path,label\na.png,x\nb.png\n", "line 3: path and label must both be given"),
        ("path,label\na.png,x\n\n\nb.png\n", "line 5: path and label must both be given"),
        ("path,label,split\na.png,x,dev\n", "line 2: split 'dev' is unknown; known are: train,"),
        ("path,label,split\na.png,x,train\nb.png,y,\n", "some rows have a split and some have"),
        ("path,label\na.png,x\nb.png,x\n", "has one class, 'x'"),
        ("path,label\na.png,Gr\udcfc\n", "cannot be read"),
    ],
)
def test_a_table_that_is_not_understood_is_refused(tmp_path: Path, content: str, says: str) -> None:
    table = put(tmp_path / "t.csv", content.encode(errors="surrogateescape"))
    said = refusal(lambda: list_images(table))
    assert said.startswith(str(table))
    assert says in said


def test_data_that_is_not_there_is_refused(tmp_path: Path) -> None:
    said = refusal(lambda: list_images(tmp_path / "nowhere"))
    assert said.startswith(f"{tmp_path / 'nowhere'} does not exist")
    assert "train/ and val/" in said


def test_a_file_where_a_folder_should_be_is_refused(tmp_path: Path) -> None:
    said = refusal(lambda: list_images(put(tmp_path / "a.png")))
    assert "a.png is a file, expected a folder" in said


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ((), "is empty"),
        (("a.png", "b.png"), "holds no class folders"),
        (("train/a.png", "val/b.png"), "{root}/train holds no class folders"),
        (("cat/a.png",), "has one class, 'cat'"),
        (("train/cat/a.png", "val/cat/b.png"), "has one class, 'cat'"),
        (
            ("train/cat/a.png", "train/dog/b.png", "val/cat/c.png", "val/cow/d.png"),
            "val has classes that {root}/train lacks: cow",
        ),
    ],
)
def test_a_folder_that_is_not_understood_is_refused(
    tmp_path: Path, files: tuple[str, ...], says: str
) -> None:
    said = refusal(lambda: list_images(folder_of(tmp_path, *files)))
    assert str(tmp_path) in said
    assert says.format(root=tmp_path) in said


@pytest.mark.parametrize(
    "files",
    [
        ("b/2.png", "b/10.png", "b/1.png", "a/z.png", "C/1.png", "ä/1.png"),
        ("cat/IMG.JPG", "cat/b.Png", "cat/a.jpeg", "dog/x.TIFF", "dog/y.webp", "dog/a.b.bmp"),
        ("cat/a.png", "cat/notes.txt", "cat/b.gif", "cat/Thumbs.db", "dog/a.png", "dog/jpg"),
        ("cat/b.png", "cat/deep/a.png", "cat/deep/er/c.png", "cat/a/z.png", "dog/x/y.png"),
        (
            "cat/1.png",
            "cat/a/2.png",
            "cat/a-b/3.png",
            "cat/a/x/4.png",
            "cat/a b/5.png",
            "dog/6.png",
        ),
    ],
    ids=["names", "extensions", "uncounted files", "nested", "nested beside a prefix"],
)
def test_classes_and_images_come_as_in_image_folder(tmp_path: Path, files: tuple[str, ...]) -> None:
    theirs = vision.load("torchvision.datasets").ImageFolder(folder_of(tmp_path, *files))
    listing = list_images(tmp_path)
    assert list(listing.classes) == theirs.classes
    ours = [(str(i.path), theirs.class_to_idx[i.label]) for i in listing.images]
    assert ours == theirs.samples


def test_files_that_are_no_images_by_extension_are_counted(tmp_path: Path) -> None:
    folder_of(tmp_path, "cat/a.png", "cat/b.png", "dog/c.png", "dog/d.png")
    folder_of(tmp_path, "cat/notes.txt", "cat/.DS_Store", ".git/x.png")
    listing = list_images(tmp_path)
    assert (listing.classes, listing.other_files) == (("cat", "dog"), ("cat/notes.txt",))
    notes = opened(tmp_path).notes
    assert notes == ("1 file is no image by extension and left out: cat/notes.txt",)
    folder_of(tmp_path, "cat/1.md", "dog/2.md", "dog/3.md")
    assert "4 files are no image by extension and left out: cat/1.md" in opened(tmp_path).notes[0]


def palette(**how: Any) -> bytes:
    image = Image.new("P", (8, 6), 1)
    image.putpalette([0, 0, 0, 200, 30, 40])
    return encoded(image, "PNG", **how)


def turned(kind: str) -> bytes:
    """Encode an image whose upper half is red, stored on its side as cameras do."""
    upright = Image.new("RGB", (32, 48), (0, 0, 255))
    upright.paste((255, 0, 0), (0, 0, 32, 24))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show
    return encoded(upright.rotate(90, expand=True), kind, exif=exif)


MODES: dict[str, tuple[bytes, tuple[int, int, int]]] = {
    "RGB": (encoded(Image.new("RGB", (8, 6), (9, 99, 199)), "PNG"), (9, 99, 199)),
    "RGB JPEG": (encoded(Image.new("RGB", (8, 6), (9, 99, 199)), "JPEG"), (9, 99, 199)),
    "RGB with a transparent colour": (
        encoded(Image.new("RGB", (8, 6), (9, 99, 199)), "PNG", transparency=(9, 99, 199)),
        (255, 255, 255),
    ),
    "grey": (encoded(Image.new("L", (8, 6), 77), "PNG"), (77, 77, 77)),
    "grey JPEG": (encoded(Image.new("L", (8, 6), 77), "JPEG"), (77, 77, 77)),
    "grey with a transparent grey": (
        encoded(Image.new("L", (8, 6), 77), "PNG", transparency=77),
        (255, 255, 255),
    ),
    "palette": (palette(), (200, 30, 40)),
    "palette with a transparent colour": (palette(transparency=1), (255, 255, 255)),
    "palette half transparent": (palette(transparency=b"\xff\x80"), (227, 142, 147)),
    "LA": (encoded(Image.new("LA", (8, 6), (77, 255)), "PNG"), (77, 77, 77)),
    "LA transparent": (encoded(Image.new("LA", (8, 6), (77, 0)), "PNG"), (255, 255, 255)),
    "RGBA": (encoded(Image.new("RGBA", (8, 6), (255, 0, 0, 128)), "PNG"), (255, 127, 127)),
    "RGBA WebP": (
        encoded(Image.new("RGBA", (8, 6), (255, 0, 0, 0)), "WEBP", lossless=True),
        (255, 255, 255),
    ),
    "CMYK": (encoded(Image.new("CMYK", (8, 6), (0, 255, 255, 0)), "JPEG"), (255, 0, 0)),
    "1 bit": (encoded(Image.new("1", (8, 6), 1), "PNG"), (255, 255, 255)),
    "16 bit": (encoded(Image.fromarray(np.full((6, 8), 32768, np.uint16)), "PNG"), (128,) * 3),
    "16 bit, white": (
        encoded(Image.fromarray(np.full((6, 8), 65535, np.uint16)), "PNG"),
        (255, 255, 255),
    ),
    "16 bit, nearly black": (
        encoded(Image.fromarray(np.full((6, 8), 255, np.uint16)), "PNG"),
        (1, 1, 1),
    ),
    "16 bit TIFF": (
        encoded(Image.fromarray(np.full((6, 8), 32768, np.uint16)), "TIFF"),
        (128, 128, 128),
    ),
    "32 bit TIFF": (
        encoded(Image.fromarray(np.full((6, 8), 32768, np.int32)), "TIFF"),
        (128, 128, 128),
    ),
    "float TIFF in [0, 1]": (
        encoded(Image.fromarray(np.full((6, 8), 0.5, np.float32)), "TIFF"),
        (128, 128, 128),
    ),
    "float TIFF in [0, 255]": (
        encoded(Image.fromarray(np.full((6, 8), 64.2, np.float32)), "TIFF"),
        (64, 64, 64),
    ),
}


@pytest.mark.parametrize("mode", MODES)
def test_an_image_of_any_mode_becomes_rgb(mode: str) -> None:
    content, colour = MODES[mode]
    found = decode(content)
    assert (found.mode, found.size) == ("RGB", (8, 6))
    assert found.getpixel((4, 3)) == pytest.approx(colour, abs=3)


def test_16_bits_keep_their_gradation() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(1, 256)
    found = np.asarray(decode(encoded(Image.fromarray(ramp), "PNG")))[0, :, 0]
    assert np.abs(found.astype(int) - np.arange(256)).max() <= 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_an_image_stored_on_its_side_is_turned_upright(kind: str) -> None:
    found = decode(turned(kind))
    assert found.size == (32, 48)
    top, bottom = found.getpixel((16, 8)), found.getpixel((16, 40))
    assert top == pytest.approx((255, 0, 0), abs=6)
    assert bottom == pytest.approx((0, 0, 255), abs=6)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert decode(content).getpixel((4, 3)) == pytest.approx((255, 0, 0), abs=3)


def test_content_decides_and_not_the_name(tmp_path: Path) -> None:
    gif = encoded(Image.new("RGB", (8, 6), "red"), "GIF")
    assert inspected(put(tmp_path / "really-a-gif.png", gif)).problem is None


JPEG = encoded(Image.effect_noise((64, 64), 90).convert("RGB"), "JPEG")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"hello, I am no image", "not an image: begins with b'hello, I am '"),
        (b"<html><body>404</body></html>", "not an image: begins with b'<html><body>'"),
        *((JPEG[:length], "") for length in (2, 3, 20, 100, 620, len(JPEG) // 2, len(JPEG) - 50)),
        (MODES["RGB"][0][:50], ""),
        (MODES["16 bit TIFF"][0][:50], ""),
        (palette()[:40], ""),
    ],
)
def test_what_is_no_image_is_told_with_a_reason(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    found = inspected(put(tmp_path / "a.jpg", content))
    assert found.problem
    assert reason in found.problem
    assert "BytesIO" not in found.problem


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    assert inspected(tmp_path / "gone.jpg").problem == "No such file or directory"
    (tmp_path / "folder.jpg").mkdir()
    assert inspected(tmp_path / "folder.jpg").problem == "Is a directory"


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from([MODES["RGB"][0], JPEG, turned("PNG"), palette(), MODES["16 bit TIFF"][0]]),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=5),
    st.integers(0, 4000),
)
def test_damage_ends_in_an_image_or_a_reason(
    content: bytes, changes: list[tuple[int, int]], length: int
) -> None:
    damaged = bytearray(content)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    try:
        found = decode(bytes(damaged[:length]))
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
        return
    assert found.mode == "RGB"


def test_unreadable_images_are_left_out_and_listed(tmp_path: Path) -> None:
    folder_of(
        tmp_path,
        *(f"{split}/{c}/{i}.png" for split in ("train", "val") for c in "xy" for i in (1, 2)),
    )
    put(tmp_path / "train/x/text.jpg", b"just words")
    put(tmp_path / "train/y/cut.jpg", JPEG[:700])
    put(tmp_path / "val/y/empty.png", b"")
    photos = opened(tmp_path)
    assert photos.counts() == {"train": {"x": 2, "y": 2}, "val": {"x": 2, "y": 2}}
    (text, text_reason), (cut, cut_reason), empty = photos.unreadable
    assert (text, cut) == ("train/x/text.jpg", "train/y/cut.jpg")
    assert text_reason == "not an image: begins with b'just words'"
    assert "truncated" in cut_reason.lower()
    assert empty == ("val/y/empty.png", "empty file")
    assert photos.notes[0].startswith("3 unreadable images left out:\n  train/x/text.jpg: not an")
    said = refusal(lambda: opened(tmp_path, strict=True))
    assert "3 unreadable images" in said
    assert "train/y/cut.jpg: " in said
    assert "--strict-images" in said


def test_a_file_that_a_table_names_and_is_not_there_is_listed(tmp_path: Path) -> None:
    folder_of(tmp_path, *(f"{i}.png" for i in range(8)))
    rows = [f"{i}.png,{'xy'[i % 2]}" for i in range(9)]
    table = put(tmp_path / "t.csv", "\n".join(["path,label", *rows]).encode())
    assert opened(table).unreadable == (("8.png", "No such file or directory"),)


def test_many_unreadable_images_are_cut_short(tmp_path: Path) -> None:
    folder_of(tmp_path, "x/1.png", "x/2.png", "y/1.png")
    for number in range(12):
        put(tmp_path / f"y/bad{number:02d}.png", b"no")
    note = opened(tmp_path).notes[0]
    assert note.startswith("12 unreadable images")
    assert note.endswith("  y/bad09.png: not an image: begins with b'no'\n  and 2 more")


@pytest.mark.parametrize("content", [None, b"", b"no image"])
def test_a_class_with_no_readable_image_is_refused(tmp_path: Path, content: bytes | None) -> None:
    folder_of(tmp_path, "x/1.png", "x/2.png", "y/1.png", "y/2.png")
    (tmp_path / "z").mkdir()
    if content is not None:
        put(tmp_path / "z/1.png", content)
    said = refusal(lambda: opened(tmp_path))
    assert "no readable training image of z" in said
    assert ("z/1.png: " in said) == (content is not None)


def test_a_class_of_validation_images_alone_is_refused(tmp_path: Path) -> None:
    folder_of(tmp_path, "a.png", "b.png", "c.png")
    rows = "path,label,split\na.png,x,train\nb.png,x,val\nc.png,y,val\n"
    table = put(tmp_path / "t.csv", rows.encode())
    assert "no readable training image of y" in refusal(lambda: opened(table))


def test_no_validation_image_is_refused(tmp_path: Path) -> None:
    folder_of(tmp_path, "train/x/1.png", "train/y/1.png")
    put(tmp_path / "val/x/1.png", b"no image")
    assert "no readable validation image" in refusal(lambda: opened(tmp_path))


def test_one_image_a_class_leaves_nothing_to_validate_on(tmp_path: Path) -> None:
    folder_of(tmp_path, "x/1.png", "y/1.png")
    assert "no readable validation image" in refusal(lambda: opened(tmp_path))


def test_a_class_that_validation_lacks_is_said(tmp_path: Path) -> None:
    folder_of(tmp_path, "train/x/1.png", "train/y/1.png", "val/x/2.png")
    assert opened(tmp_path).notes == (f"{tmp_path / 'val'} has no images of y",)


def test_a_fraction_for_data_with_its_own_split_is_refused(photos: Path) -> None:
    said = refusal(lambda: opened(photos, val_fraction=0.3))
    assert said == f"--val-fraction 0.3 has no effect: {photos} has its own split"


def test_a_copy_in_train_and_val_is_warned_of_by_both_names(tmp_path: Path) -> None:
    folder_of(tmp_path, "train/x/1.png", "train/y/1.png", "val/x/2.png", "val/y/2.png")
    put(tmp_path / "val/y/copy.png", (tmp_path / "train/y/1.png").read_bytes())
    (note,) = opened(tmp_path).notes
    assert note.startswith("warning: 1 validation image")
    assert note.endswith("val/y/copy.png = train/y/1.png")


def test_copies_are_not_split_apart(tmp_path: Path) -> None:
    write_photos(tmp_path, {"x": 6, "y": 6}, size=8)
    for path in sorted(tmp_path.glob("*/*.png")):
        put(path.with_name("copy-of-" + path.name), path.read_bytes())
    for seed in range(3):
        photos = opened(tmp_path, val_fraction=0.5, seed=seed)
        assert photos.notes == ()
        assert photos.counts() == {"train": {"x": 6, "y": 6}, "val": {"x": 6, "y": 6}}


def test_progress_counts_every_image(tmp_path: Path) -> None:
    write_photos(tmp_path, {"x": 3, "y": 3}, size=8)
    heard: list[tuple[int, int]] = []
    opened(tmp_path, progress=lambda done, total: heard.append((done, total)))
    assert heard == [(done, 6) for done in range(1, 7)]


def test_inspection_leaves_the_processs_warning_filters_alone(tmp_path: Path) -> None:
    paths = sorted(write_photos(tmp_path, {"x": 40}, size=64).glob("x/*"))
    before, interval = list(warnings.filters), sys.getswitchinterval()
    try:
        sys.setswitchinterval(1e-6)  # let the threads meet
        for _ in range(20):
            assert all(found.problem is None for found in inspect_all(paths))
            assert warnings.filters == before
    finally:
        sys.setswitchinterval(interval)


# A class is a list of images, an image the number of its copies.
CLASSES = st.dictionaries(
    st.sampled_from("abc"), st.lists(st.integers(1, 3), min_size=1, max_size=30), min_size=1
)
FRACTIONS = st.floats(0.001, 0.999)


def laid_out(classes: dict[str, list[int]]) -> list[tuple[str, str]]:
    """Return (label, digest) of every copy."""
    return [
        (label, f"{label}{number}")
        for label, images in classes.items()
        for number, copies in enumerate(images)
        for _ in range(copies)
    ]


def choose(images: list[tuple[str, str]], fraction: float, seed: int) -> set[int]:
    return held_out([label for label, _ in images], [d for _, d in images], fraction, seed)


@settings(deadline=None)
@given(CLASSES, FRACTIONS, st.integers(0, 5))
def test_copies_stay_on_one_side_and_sizes_are_right(
    classes: dict[str, list[int]], fraction: float, seed: int
) -> None:
    images = laid_out(classes)
    chosen = choose(images, fraction, seed)
    kept = {images[i] for i in chosen}
    assert kept.isdisjoint(images[i] for i in range(len(images)) if i not in chosen)
    for label, different in classes.items():
        count = sum(name == label for name, _ in kept)
        if len(different) == 1:
            assert count == 0
        else:
            assert 1 <= count <= len(different) - 1
            assert abs(count - fraction * len(different)) <= 1


@settings(deadline=None)
@given(CLASSES, FRACTIONS, st.randoms(use_true_random=False))
def test_the_split_is_independent_of_the_order_of_input(
    classes: dict[str, list[int]], fraction: float, shuffler: random.Random
) -> None:
    images = laid_out(classes)
    shuffled = list(images)
    shuffler.shuffle(shuffled)
    before = {images[i] for i in choose(images, fraction, 0)}
    assert {shuffled[i] for i in choose(shuffled, fraction, 0)} == before


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000))
def test_the_split_depends_on_the_seed(seed: int) -> None:
    images = laid_out({"a": [1] * 40, "b": [1] * 40})
    assert choose(images, 0.5, seed) == choose(images, 0.5, seed) != choose(images, 0.5, seed + 1)


def test_the_stream_of_decisions_never_changes() -> None:
    assert order(10, seed=0, epoch=0) == [3, 9, 5, 0, 2, 8, 7, 6, 1, 4]
    assert order(10, seed=0, epoch=1) == [3, 2, 0, 8, 4, 7, 5, 1, 6, 9]
    assert order(10, seed=1, epoch=0) == [3, 8, 9, 2, 7, 0, 6, 4, 1, 5]
    assert key(0, "order", 0) == 4450048964101087113
    assert key(3, "augment", 1, 2) == 4951184151464669146
    assert key(0, "split", "ab") == 5766386278753473631


@given(st.integers(0, 2**63), st.text(), st.lists(st.integers(0, 2**40) | st.text()))
def test_a_key_is_a_number_below_2_to_the_63(
    seed: int, purpose: str, position: list[int | str]
) -> None:
    found = key(seed, purpose, *position)
    assert 0 <= found < 2**63
    assert found == key(seed, purpose, *position) != key(seed, purpose, *position, 0)


def test_neighbouring_positions_have_different_keys() -> None:
    found = [key(s, p, e, i) for s in range(3) for p in "ab" for e in range(9) for i in range(99)]
    assert len(set(found)) == len(found)
    assert len({key(0, "a", 1, 23), key(0, "a", 12, 3), key(0, "a", "1", 23)}) == 3


@settings(deadline=None)
@given(st.integers(0, 500), st.integers(0, 2**40), st.integers(0, 1000))
def test_an_order_is_a_permutation_by_seed_and_epoch_alone(
    images: int, seed: int, epoch: int
) -> None:
    found = order(images, seed, epoch)
    assert sorted(found) == list(range(images))
    random.random()
    np.random.random()
    assert order(images, seed, epoch) == found
    if images > 30:
        assert order(images, seed, epoch + 1) != found != order(images, seed + 1, epoch)


@given(st.integers(1, 2000), st.integers(1, 300))
def test_batches_cover_all_images_and_none_is_left_alone(images: int, batch_size: int) -> None:
    bounds = batch_bounds(images, batch_size)
    assert [i for start, stop in bounds for i in range(start, stop)] == list(range(images))
    sizes = [stop - start for start, stop in bounds]
    assert all(size == batch_size for size in sizes[:-1])
    assert 1 <= sizes[-1] <= batch_size + (batch_size > 1)
    assert batch_size == 1 or len(sizes) == 1 or sizes[-1] > 1


@pytest.mark.parametrize(
    ("images", "batch_size", "sizes"),
    [(1, 4, [1]), (4, 4, [4]), (5, 4, [5]), (6, 4, [4, 2]), (9, 4, [4, 5]), (3, 1, [1, 1, 1])],
)
def test_a_last_single_image_joins_the_batch_before(
    images: int, batch_size: int, sizes: list[int]
) -> None:
    assert [stop - start for start, stop in batch_bounds(images, batch_size)] == sizes


def draws() -> tuple[float, float, float, int]:
    """Draw of every global generator."""
    return (
        random.random(),
        float(np.random.random()),
        float(np.random.normal()),
        int(torch.randint(2**40, ())),
    )


def fail_after_drawing(number: int, other: tuple[float, ...]) -> None:
    with keyed_randomness(number):
        assert all(a != b for a, b in zip(draws(), other, strict=True))
        raise KeyError


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**63 - 1), st.integers(0, 2**31))
def test_keyed_randomness_reaches_and_restores_all_generators(number: int, start: int) -> None:
    with keyed_randomness(number):
        first = draws()
    random.seed(start)
    np.random.seed(start)
    torch.manual_seed(start)
    untouched = draws(), draws()
    random.seed(start)
    np.random.seed(start)
    torch.manual_seed(start)
    before = draws()
    with keyed_randomness(number):
        assert draws() == first
    with pytest.raises(KeyError):
        fail_after_drawing(number ^ 1, first)
    assert (before, draws()) == untouched

"""Find the images and their labels: folders of class folders, or a table."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from luthier.data.images import EXTENSIONS
from luthier.errors import DataError

VALIDATION_NAMES = ("val", "valid", "validation", "test")
_LAYOUTS = (
    "give a folder with train/ and val/ of class folders, one folder of class folders,"
    " or a CSV/TSV file with the columns path,label[,split]"
)


@dataclass(frozen=True)
class Listed:
    """An image as it is listed, before anyone has looked into it.

    Attributes:
        path: the file.
        name: its path below the data's root, with forward slashes.
        label: its class's name.
        split: "train", "val", or None where the data has no split of its own.
    """

    path: Path
    name: str
    label: str
    split: str | None


@dataclass(frozen=True)
class Listing:
    """All images of a data set.

    Attributes:
        root: the folder or table that was listed.
        classes: names in index order (sorted, as ImageFolder has them).
        images: in ImageFolder's order; those of a table by name.
        other_files: files beside the images whose extension is that of no image.
        notes: what a reader should know of how the data was understood.
    """

    root: Path
    classes: tuple[str, ...]
    images: tuple[Listed, ...]
    other_files: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def list_images(data: Path, *, to_learn: bool = True) -> Listing:
    """List the images of a data set.

    Args:
        data: where they are.
        to_learn: whether a model is to learn from them, for which one class is too few.

    Raises:
        DataError: there is no such data, it is empty, it has too few classes, or its layout is
            none that is known.
    """
    listing = _list(data)
    if to_learn and len(listing.classes) < 2:
        raise DataError(
            f"{data} has one class, {listing.classes[0]!r}: a classifier needs two or more",
            cure="each class is a folder of its own",
        )
    return listing


def _list(data: Path) -> Listing:
    if data.is_file():
        if data.suffix.lower() not in (".csv", ".tsv"):
            raise DataError(f"{data} is a file, expected a folder of images", cure=_LAYOUTS)
        return _from_table(data)
    if not data.is_dir():
        raise DataError(f"{data} does not exist", cure=_LAYOUTS)
    train = data / "train"
    if _class_folders(train):
        return _from_split_folders(data, train)
    classes = _class_folders(data)
    if not classes:
        inside = "is empty" if not any(data.iterdir()) else "holds no class folders"
        raise DataError(f"the folder {data} {inside}", cure=_LAYOUTS)
    if "train" in classes and set(classes) <= {"train", *VALIDATION_NAMES}:
        raise DataError(f"{train} holds no class folders", cure=_LAYOUTS)
    images, others = _walk(data, data, classes, None)
    return Listing(data, tuple(classes), tuple(images), tuple(others), _loose(data, data))


def _class_folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith("."))


def _from_split_folders(data: Path, train: Path) -> Listing:
    classes = _class_folders(train)
    found = [name for name in VALIDATION_NAMES if (data / name).is_dir()]
    if not found:
        images, others = _walk(data, train, classes, None)
        note = f"{data} has train/ and no {'/, '.join(VALIDATION_NAMES)}/: train/ is split"
        loose = _loose(data, train)
        return Listing(data, tuple(classes), tuple(images), tuple(others), (note, *loose))
    held_out = data / found[0]
    notes = list(_loose(data, train) + _loose(data, held_out))
    if len(found) > 1:
        notes.append(
            f"validation images are those of {found[0]}/; {', '.join(found[1:])}/ is unused"
        )
    extra = [name for name in _class_folders(held_out) if name not in classes]
    if extra:
        raise DataError(
            f"{held_out} has classes that {train} lacks: {', '.join(extra)}",
            cure="the model could never name them; move or remove these folders",
        )
    images, others = _walk(data, train, classes, "train")
    lacking = [name for name in classes if not (held_out / name).is_dir()]
    if lacking:
        notes.append(f"{held_out} has no images of {', '.join(lacking)}")
    more, more_others = _walk(data, held_out, [c for c in classes if c not in lacking], "val")
    return Listing(
        data, tuple(classes), tuple(images + more), tuple(others + more_others), tuple(notes)
    )


def _loose(data: Path, folder: Path) -> tuple[str, ...]:
    found = sorted(p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in EXTENSIONS)
    if not found:
        return ()
    first = found[0].relative_to(data).as_posix()
    return (
        f"images beside the class folders, of no class and left out: {len(found)} ({first}, …)",
    )


def _walk(
    data: Path, folder: Path, classes: Iterable[str], split: str | None
) -> tuple[list[Listed], list[str]]:
    images, others = [], []
    for label in classes:
        found = []
        for root, folders, files in os.walk(folder / label, followlinks=True):
            folders[:] = [f for f in folders if not f.startswith(".")]
            found.append((root, files))
        for root, files in sorted(found):  # by whole paths, as ImageFolder: "a b" before "a/b"
            for file in sorted(files):
                path = Path(root, file)
                name = path.relative_to(data).as_posix()
                if path.suffix.lower() in EXTENSIONS:
                    images.append(Listed(path, name, label, split))
                elif not file.startswith("."):
                    others.append(name)
    return images, others


def _from_table(table: Path) -> Listing:
    delimiter = "\t" if table.suffix.lower() == ".tsv" else ","
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{table} cannot be read: {error}") from error
    rows = csv.DictReader(text.splitlines(), delimiter=delimiter)
    header = [name.strip() for name in rows.fieldnames or []]
    if not {"path", "label"} <= set(header):
        raise DataError(
            f"{table} has the columns {header}, expected path, label and, if wanted, split"
        )
    rows.fieldnames = header
    images = [_from_row(table, rows.line_num, row) for row in rows]
    if not images:
        raise DataError(f"{table} lists no images")
    if len({image.split is None for image in images}) == 2:
        raise DataError(
            f"{table}: some rows have a split and some have none", cure="fill or drop it"
        )
    # By name, so that sorting a table's rows in another way changes no bit of a run.
    images.sort(key=lambda image: (image.name, image.label, image.split or ""))
    return Listing(table, tuple(sorted({image.label for image in images})), tuple(images))


def _from_row(table: Path, number: int, row: dict[str, str | None]) -> Listed:
    path, label = (row.get("path") or "").strip(), (row.get("label") or "").strip()
    if not path or not label:
        raise DataError(f"{table}, line {number}: path and label must both be given")
    split = (row.get("split") or "").strip().lower() or None
    if split in VALIDATION_NAMES:
        split = "val"
    if split not in (None, "train", "val"):
        known = ", ".join(("train", *VALIDATION_NAMES))
        raise DataError(f"{table}, line {number}: split {split!r} is unknown; known are: {known}")
    return Listed(table.parent / path, path.replace(os.sep, "/"), label, split)

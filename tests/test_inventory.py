"""A data set's inventory: what is not read again, what stays where it was, what has changed."""

from __future__ import annotations

import json
import os
import time
from dataclasses import fields, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import write_photos
from luthier.data.images import Inspection
from luthier.data.inventory import Changes, Entry, Inventory, compare
from luthier.data.listing import list_images
from luthier.data.photos import Photos, open_photos
from luthier.errors import DamagedError, DataError

OLD = time.time_ns() - 3600 * 10**9


def settle(root: Path) -> Path:
    """Let every file below ``root`` look as if it had been written an hour ago."""
    for path in root.rglob("*.*"):
        os.utime(path, ns=(OLD, OLD))
    return root


def swap(path: Path, content: bytes, mtime_ns: int | None = None) -> None:
    """Put other bytes of the same length into a file, unseen by size and modification time."""
    status = path.stat()
    assert len(content) <= status.st_size
    path.write_bytes(content.ljust(status.st_size, b"\0"))
    os.utime(path, ns=(OLD, status.st_mtime_ns if mtime_ns is None else mtime_ns))


def bitmap(colour: str) -> bytes:
    """Encode an image whose length does not depend on the colour."""
    file = BytesIO()
    Image.new("RGB", (8, 6), colour).save(file, "BMP")
    return file.getvalue()


def opened(root: Path, known: Photos | None = None, **how: Any) -> Photos:
    """Open a data set, with an inventory that went through its file."""
    text = None if known is None else known.inventory.to_json()
    inventory = None if text is None else Inventory.from_json(text, "data.json")
    return open_photos(list_images(root), known=inventory, **how)


def changes(before: Photos, now: Photos) -> Changes:
    return compare(before.inventory, now.inventory)


def sides(photos: Photos) -> dict[str, str | None]:
    return {entry.name: entry.side for entry in photos.inventory.entries}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twenty images of two classes without a split, written an hour ago."""
    return settle(write_photos(tmp_path / "set", {"cat": 10, "dog": 10}, size=8))


# --- what is read --------------------------------------------------------------------------


def test_a_file_of_the_same_size_and_time_is_not_read(root: Path) -> None:
    before = opened(root)
    for path in root.rglob("*.png"):
        swap(path, b"no image")
    now = opened(root, before)
    assert now == replace(before, inventory=now.inventory)
    assert now.inventory.entries == before.inventory.entries
    assert now.inventory.taken_ns > before.inventory.taken_ns
    assert not changes(before, now)
    assert len(opened(root, opened(root, now)).train) == len(before.train)
    with pytest.raises(DataError, match="no readable training image"):
        opened(root)


def test_what_was_unreadable_is_not_read_again_either(root: Path) -> None:
    (root / "cat/bad.bmp").write_bytes(b"no image".ljust(len(bitmap("red"))))
    before = opened(settle(root))
    swap(root / "cat/bad.bmp", bitmap("red"))
    assert opened(root, before).unreadable == before.unreadable
    assert before.unreadable == (("cat/bad.bmp", "not an image: begins with b'no image    '"),)
    with pytest.raises(DataError, match="1 unreadable image in"):
        opened(root, before, strict=True)


@pytest.mark.parametrize("ahead", [0, 3600 * 10**9])
def test_a_file_written_just_before_it_was_read_is_read_again(root: Path, ahead: int) -> None:
    fresh = root / "cat/000.png"
    moment = time.time_ns() + ahead
    os.utime(fresh, ns=(moment, moment))
    before = opened(root)
    swap(fresh, b"no image")
    swap(root / "cat/001.png", b"no image")
    now = opened(root, before)
    assert [name for name, _ in now.unreadable] == ["cat/000.png"]


def test_two_seconds_are_enough_to_be_trusted() -> None:
    def trusts(mtime_ns: int) -> bool:
        found = Inspection(1, mtime_ns, "a" * 64, None)
        taken = Inventory(10_000_000_000, (Entry("a", "x", "train", found),))
        return taken.trusted("a") == found

    assert trusts(8_000_000_000)
    assert not trusts(8_000_000_001)
    assert Inventory(0, ()).trusted("a") is None


def test_a_file_that_could_not_be_opened_is_tried_again(root: Path) -> None:
    rows = [f"{p.relative_to(root.parent)},{p.parent.name}" for p in root.rglob("*.png")]
    table = root.parent / "t.csv"
    table.write_text("\n".join(["path,label", *rows, "late.png,cat"]))
    before = opened(table)
    assert before.unreadable == (("late.png", "No such file or directory"),)
    late = root.parent / "late.png"
    late.touch()
    os.utime(late, ns=(0, 0))  # of size and time 0, which is how a missing file is noted
    assert opened(table, before).unreadable == (("late.png", "empty file"),)


def test_a_touched_file_is_read_and_is_the_same(root: Path) -> None:
    before = opened(root)
    os.utime(root / "cat/000.png", ns=(OLD + 1, OLD + 1))
    now = opened(root, before)
    assert now.fingerprint == before.fingerprint
    assert not changes(before, now)
    assert {e.found.mtime_ns for e in now.inventory.entries} == {OLD, OLD + 1}
    swap(root / "cat/000.png", b"no image", OLD + 2)
    assert [name for name, _ in opened(root, now).unreadable] == ["cat/000.png"]


def test_a_file_of_another_size_is_read_whatever_its_time(root: Path) -> None:
    before = opened(root)
    (root / "cat/000.png").write_bytes(b"")
    assert [name for name, _ in opened(settle(root), before).unreadable] == ["cat/000.png"]


def test_progress_counts_what_is_not_read_too(root: Path) -> None:
    heard: list[tuple[int, int]] = []
    opened(root, opened(root), progress=lambda done, total: heard.append((done, total)))
    assert heard == [(done, 20) for done in range(1, 21)]


# --- what is said of real changes ----------------------------------------------------------


def test_a_file_rewritten_in_the_same_size_is_changed(root: Path) -> None:
    (root / "cat/a.bmp").write_bytes(bitmap("red"))
    before = opened(settle(root))
    swap(root / "cat/a.bmp", bitmap("blue"), OLD + 1)
    now = opened(root, before)
    assert now.fingerprint != before.fingerprint
    assert changes(before, now) == Changes(changed=("cat/a.bmp",))
    assert sides(now) == sides(before)


def test_a_deleted_file_is_gone(root: Path) -> None:
    before = opened(root)
    (root / "cat/003.png").unlink()
    found = changes(before, opened(root, before))
    assert found == Changes(gone=("cat/003.png",))
    assert found.correctness == ("1 image gone: cat/003.png",)


def test_a_file_that_is_no_image_any_more_is_unreadable(root: Path) -> None:
    before = opened(root)
    (root / "cat/003.png").write_bytes(b"")
    found = changes(before, opened(root, before))
    assert found == Changes(unreadable=(("cat/003.png", "empty file"),))
    assert found.correctness == ("1 image unreadable now: cat/003.png (empty file)",)


def test_a_file_beside_the_others_is_added_and_an_unreadable_one_is_no_difference(
    root: Path,
) -> None:
    before = opened(root)
    (root / "cat/new.bmp").write_bytes(bitmap("red"))
    (root / "cat/bad.png").write_bytes(b"")
    found = changes(before, opened(root, before))
    assert found == Changes(added=("cat/new.bmp",))
    assert (found.correctness, found.exactness) == ((), ("1 image added: cat/new.bmp",))


def test_a_new_class_is_said(root: Path) -> None:
    before = opened(root)
    write_photos(root, {"emu": 2}, size=8, seed=9)
    found = changes(before, opened(root, before))
    assert found == Changes(classes_added=("emu",), added=("emu/000.png", "emu/001.png"))
    assert found.correctness == ("1 class added: emu",)


def test_a_table_that_moves_a_file_to_another_class_is_said(root: Path) -> None:
    table = root.parent / "t.csv"
    rows = [f"{p.relative_to(root.parent).as_posix()},{p.parent.name}" for p in root.rglob("*.png")]
    table.write_text("\n".join(["path,label", *rows]))
    before = opened(table)
    table.write_text("\n".join(["path,label", *rows]).replace("cat/000.png,cat", "cat/000.png,dog"))
    now = opened(table, before)
    side = sides(before)["set/cat/000.png"]
    assert changes(before, now).correctness == (
        f"1 image of another class or side: set/cat/000.png (cat, {side} → dog, {side})",
    )


# --- sides ---------------------------------------------------------------------------------


def test_files_stay_on_their_sides_and_new_ones_are_learned_from(root: Path) -> None:
    before = opened(root, val_fraction=0.4)
    write_photos(root / "more", {"cat": 30}, size=8, seed=9)
    for path in (root / "more/cat").iterdir():
        path.rename(root / "cat" / f"new-{path.name}")
    (root / "more/cat").rmdir()
    (root / "more").rmdir()
    now = opened(root, before, val_fraction=0.4)
    assert sides(before).items() <= sides(now).items()
    assert {side for name, side in sides(now).items() if "new" in name} == {"train"}
    assert not sides(before).items() <= sides(opened(root, val_fraction=0.4)).items()


def test_a_copy_of_a_validation_image_is_validated_on(root: Path) -> None:
    before = opened(root)
    original = next(sample.path for sample in before.val)
    copy = original.with_name("copy.png")
    copy.write_bytes(original.read_bytes())
    now = opened(root, before)
    assert sides(now)[copy.relative_to(root).as_posix()] == "val"
    assert now.notes == ()


def test_a_renamed_file_keeps_its_side_and_a_rewritten_one_too(root: Path) -> None:
    before = opened(root)
    first, second = (sample.path for sample in (before.val[0], before.val[-1]))
    first.rename(first.with_name("renamed.png"))
    second.write_bytes(bitmap("red"))
    now = opened(root, before)
    assert (len(now.val), len(now.train)) == (len(before.val), len(before.train))
    assert sides(now)[f"{first.parent.name}/renamed.png"] == "val"
    assert sides(now)[second.relative_to(root).as_posix()] == "val"
    found = changes(before, now)
    assert found.gone == (first.relative_to(root).as_posix(),)
    assert found.added == (f"{first.parent.name}/renamed.png",)
    assert found.changed == (second.relative_to(root).as_posix(),)


def test_a_split_of_its_own_decides(root: Path) -> None:
    table = root.parent / "t.csv"
    rows = [f"{p.relative_to(root.parent)},{p.parent.name}" for p in sorted(root.rglob("*.png"))]
    splits = ["val" if number % 5 == 0 else "train" for number in range(len(rows))]
    found = []
    for where in (splits, splits[::-1]):
        lines = [f"{row},{split}" for row, split in zip(rows, where, strict=True)]
        table.write_text("\n".join(["path,label,split", *lines]))
        found.append(opened(table, found[0] if found else None))
    assert list(sides(found[1]).values()) == splits[::-1]
    moved = changes(*found).moved
    assert ("set/cat/000.png", "cat, val", "cat, train") in moved
    assert len(moved) == 8


def test_an_error_says_what_has_changed_since_the_run_began(root: Path) -> None:
    before = opened(root)
    for sample in before.val:
        sample.path.unlink()
    with pytest.raises(DataError) as caught:
        opened(root, before)
    said = str(caught.value)
    assert said.startswith(f"{root} has no readable validation image; since the run began:\n")
    assert "4 images gone: cat/" in said
    assert "start a new run" in said


# --- the values ----------------------------------------------------------------------------

NAMES = st.sampled_from([f"{letter}.png" for letter in "abcdef"])
DIGESTS = st.sampled_from([digit * 64 for digit in "012"])
READABLE = st.tuples(
    st.sampled_from(["cat", "dog", "emu"]),
    st.sampled_from(["train", "val"]),
    st.builds(Inspection, st.integers(1, 2), st.integers(0, 2), DIGESTS, st.none()),
)
UNREADABLE = st.tuples(
    st.sampled_from(["cat", "dog", "emu"]),
    st.none(),
    st.builds(Inspection, st.just(0), st.just(0), st.just(""), st.sampled_from(["bad", "worse"])),
)
SETS = st.dictionaries(NAMES | st.text(), READABLE | UNREADABLE, max_size=7)
Set = dict[str, Any]


def inventory_of(images: Set, taken_ns: int = 0) -> Inventory:
    return Inventory(taken_ns, tuple(Entry(name, *rest) for name, rest in images.items()))


def classes_of(images: Set) -> set[str]:
    return {label for label, side, _ in images.values() if side}


def content(found: Inspection) -> tuple[int, str]:
    return found.size, found.sha256


@settings(deadline=None, max_examples=300)
@given(SETS, SETS)
def test_every_name_is_compared_as_it_should_be(before: Set, now: Set) -> None:
    found = compare(inventory_of(before), inventory_of(now))
    unreadable = dict(found.unreadable)
    moved = {name for name, _, _ in found.moved}
    absent = ("", None, Inspection(0, 0, "", None))
    for name in before.keys() | now.keys():
        label, side, was = before.get(name, absent)
        new_label, new_side, is_ = now.get(name, absent)
        assert (name in found.gone) == (side is not None and name not in now)
        assert (name in unreadable) == (side is not None and name in now and new_side is None)
        assert (name in found.added) == (side is None and new_side is not None)
        both = side is not None and new_side is not None
        assert (name in moved) == (both and (label, side) != (new_label, new_side))
        assert (name in found.changed) == (both and content(was) != content(is_))
        assert unreadable.get(name, is_.problem) == is_.problem
    assert set(found.classes_added) == classes_of(now) - classes_of(before)
    assert set(found.classes_removed) == classes_of(before) - classes_of(now)
    assert len(found.lines) == sum(bool(getattr(found, field.name)) for field in fields(found))


@settings(deadline=None)
@given(SETS, SETS)
def test_fingerprints_are_equal_exactly_if_nothing_has_changed(before: Set, now: Set) -> None:
    def used(images: Set) -> Set:
        return {n: (label, s, content(f)) for n, (label, s, f) in images.items() if s}

    old, new = inventory_of(before), inventory_of(now)
    same = used(before) == used(now)
    assert (old.fingerprint == new.fingerprint) == same
    assert bool(compare(old, new)) == bool(compare(old, new).lines) == (not same)


@settings(deadline=None)
@given(SETS, st.randoms(use_true_random=False), st.integers())
def test_order_and_times_are_no_difference(images: Set, shuffler: Any, mtime: int) -> None:
    shuffled = list(images.items())
    shuffler.shuffle(shuffled)
    other = {n: (label, s, replace(f, mtime_ns=mtime)) for n, (label, s, f) in shuffled}
    before, now = inventory_of(images), inventory_of(other, 5)
    assert before.fingerprint == now.fingerprint
    assert not compare(before, now)


def test_correctness_and_exactness_are_told_apart() -> None:
    grave = Changes(
        gone=("a",),
        unreadable=(("b", "empty file"),),
        moved=(("c", "cat, train", "dog, train"),),
        classes_added=("emu", "fox"),
        classes_removed=("gnu",),
    )
    assert grave.correctness == (
        "2 classes added: emu, fox",
        "1 class removed: gnu",
        "1 image gone: a",
        "1 image unreadable now: b (empty file)",
        "1 image of another class or side: c (cat, train → dog, train)",
    )
    assert grave.exactness == ()
    slight = Changes(changed=("d",), added=("e", "f"))
    assert slight.exactness == ("1 image of other content: d", "2 images added: e, f")
    assert slight.correctness == ()
    both = replace(grave, changed=("d",))
    assert both.lines == (*grave.correctness, "1 image of other content: d")
    assert not Changes().lines


@pytest.mark.parametrize(("count", "end"), [(10, "n9"), (11, "n9 and 1 more"), (25, "and 15 more")])
def test_at_most_ten_names_are_said(count: int, end: str) -> None:
    (line,) = Changes(added=tuple(f"n{number}" for number in range(count))).lines
    assert line.startswith(f"{count} images added: n0, n1, ")
    assert line.endswith(end)
    assert line.count("n") == 10 + line.count("and")


def test_a_file_that_a_table_names_twice_has_both_places() -> None:
    found = Inspection(1, 0, "0" * 64, None)
    rows = (Entry("a", "x", "train", found), Entry("a", "y", "val", found))
    before, now = Inventory(0, rows), Inventory(0, rows[:1])
    assert not compare(before, Inventory(0, rows[::-1]))
    assert compare(before, now).moved == (("a", "x, train and y, val", "x, train"),)
    assert [before.side_of("a", label, "") for label in "xyz"] == ["train", "val", "train"]


# --- the file ------------------------------------------------------------------------------


@settings(deadline=None)
@given(SETS, st.integers())
def test_an_inventory_comes_back_from_its_json(images: Set, taken_ns: int) -> None:
    before = inventory_of(images, taken_ns)
    text = before.to_json()
    assert text.isascii()
    assert Inventory.from_json(text, "x") == Inventory.from_json(text.encode(), "x") == before


def test_a_name_that_is_no_unicode_comes_back() -> None:
    name = os.fsdecode(b"cat/gr\xfcn.png")
    before = inventory_of({name: ("cat", "train", Inspection(1, 2, "0" * 64, None))})
    assert Inventory.from_json(before.to_json(), "x") == before


def test_the_json_is_as_specified() -> None:
    images = {
        "a.png": ("cat", "val", Inspection(7, 8, "0" * 64, None, "f" * 32)),
        "b.png": ("cat", None, Inspection(0, 0, "", "Permission denied")),
    }
    inventory = inventory_of(images, 9)
    assert json.loads(inventory.to_json()) == {
        "format": 1,
        "taken_ns": 9,
        "fingerprint": "2c1fd437fd24fb76d84ef0b2e0a2b9b3",
        "columns": ["name", "label", "side", "size", "mtime_ns", "sha256", "problem", "look"],
        "files": [
            ["a.png", "cat", "val", 7, 8, "0" * 64, None, "f" * 32],
            ["b.png", "cat", None, 0, 0, "", "Permission denied", ""],
        ],
    }


SOUND = inventory_of(
    {
        "cat/a.png": ("cat", "train", Inspection(7, 8, "0" * 64, None)),
        "dog/b.png": ("dog", "val", Inspection(9, 8, "1" * 64, None)),
        "dog/c.png": ("dog", None, Inspection(9, 8, "2" * 64, "empty file")),
    },
    10**18,
)


def edited(**how: Any) -> str:
    return json.dumps(json.loads(SOUND.to_json()) | how)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "Expecting value"),
        (SOUND.to_json()[:200], ""),
        (b"\xff\xfe\xfd", ""),
        ("[" * 100_000, ""),
        ("[]", "expected an object with format 1"),
        ('{"step": 3}', "expected an object with format 1"),
        (edited(format=2), "expected an object with format 1"),
        (edited(columns=["name"]), "expected files with the columns name, label"),
        (edited(files={}), "expected files with the columns"),
        (edited(taken_ns=True), "expected a time, found taken_ns True"),
        (edited(taken_ns=1.5), "expected a time"),
        (edited(fingerprint=None), "expected fingerprint None, found '"),
        (edited(files=[]), "expected fingerprint '"),
        (edited(files=["abcdefg"]), "the row 'abcdefg' describes no image"),
        (edited(files=[["a"]]), "the row ['a'] describes no image"),
        *(
            (edited(files=[row]), "describes no image")
            for row in (
                [1, "cat", "train", 1, 1, "0" * 64, None],
                ["a", "cat", "test", 1, 1, "0" * 64, None],
                ["a", "cat", [], 1, 1, "0" * 64, None],
                ["a", "cat", "train", True, 1, "0" * 64, None],
                ["a", "cat", "train", 1, 1.0, "0" * 64, None],
                ["a", "cat", "train", 1, 1, "0" * 63, None],
                ["a", "cat", "train", 1, 1, "", None],
                ["a", "cat", None, 1, 1, "0" * 64, None],
                ["a", "cat", "train", 1, 1, "0" * 64, "bad"],
                ["a", "cat", None, 1, 1, "0" * 64, 3],
            )
        ),
    ],
)
def test_what_is_no_inventory_is_refused_by_name(text: str | bytes, says: str) -> None:
    with pytest.raises(DamagedError) as caught:
        Inventory.from_json(text, "runs/ants/data.json")
    assert str(caught.value).startswith("runs/ants/data.json is damaged or no inventory of images")
    assert says in str(caught.value)
    assert "start a new run" in str(caught.value)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_a_damaged_inventory_is_refused_or_says_the_same(data: st.DataObject) -> None:
    text = bytearray(SOUND.to_json().encode())
    place = data.draw(st.integers(0, len(text) - 1))
    text[place] = data.draw(st.integers(0, 255))
    try:
        found = Inventory.from_json(bytes(text), "x")
    except DamagedError:
        return
    assert found.fingerprint == SOUND.fingerprint
    assert found.readable == tuple(
        replace(e, found=replace(e.found, mtime_ns=f.found.mtime_ns))
        for e, f in zip(SOUND.readable, found.readable, strict=True)
    )


def test_real_photos_are_known_again(shared: Path) -> None:
    root = shared / "hymenoptera"
    before = opened(root)
    now = opened(root, before)
    assert now == replace(before, inventory=now.inventory)
    assert not changes(before, now)

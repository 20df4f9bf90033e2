"""Checkpoint directories: what was saved comes back, and what is damaged is named."""

from __future__ import annotations

import contextlib
import errno
import json
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import luthier
from luthier.checkpoint import Checkpoint, newest, read, steps_in, store, verify
from luthier.checkpoint.store import Content, Written
from luthier.errors import DamagedError
from luthier.files.image import Image

FILES = {
    "model-00001-of-00002.safetensors": "model",
    "model-00002-of-00002.safetensors": "model",
    "optimizer.safetensors": "optimizer",
}


def content(step: float = 1.0, *, best: bool = False, **facts: Any) -> Content:
    named = [
        {"trunk.weight": torch.arange(4, dtype=torch.bfloat16)},
        {"fc.weight": torch.full((2,), float(step)), "count": torch.tensor(3)},
        {"momentum_buffer/fc.weight": torch.tensor([0.5])},
    ]
    images: dict[str, Image] = {}
    parts: dict[str, dict[str, dict[str, int]]] = {}
    for (name, part), tensors in zip(FILES.items(), named, strict=True):
        images[name] = Image(tensors)
        for key, tensor in tensors.items():
            images[name].tensors[key].copy_(tensor)
        sizes = {key: tensor.nbytes for key, tensor in tensors.items()}
        parts.setdefault(part, {})[name] = sizes
    plain = {"optimizer": {"type": "SGD"}, "sampler": {"at": 3}}
    state = {"position": {"epoch": 1}, "best": None, "parts": plain}
    return Content(images, parts, store.to_json(state), {"epoch": 1, **facts}, best)


def save(folder: Path, step: int, *, keep: int = 2, **options: Any) -> Path:
    return store.save(folder, step, content(step, **options), keep).path


def bits(found: Checkpoint) -> Any:
    """Return all that a checkpoint holds."""
    tensors = {
        (part, name): (str(t.dtype), tuple(t.shape), t.flatten().view(torch.uint8).tolist())
        for part, saved in found.parts.items()
        for name, t in saved.tensors.items()
    }
    plain = {part: saved.plain for part, saved in found.parts.items()}
    return tensors, plain, found.state, found.manifest


def bytes_in(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# --- what is saved ----------------------------------------------------------------------------


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    assert newest(tmp_path) is None
    assert newest(tmp_path / "missing") is None
    path = save(tmp_path, 7, environment={"torch": "2"})
    assert path == tmp_path / "step-00000007"
    assert sorted(p.name for p in path.iterdir()) == sorted(
        [*FILES, "model.safetensors.index.json", "state.json", "manifest.json"]
    )
    found = newest(tmp_path)
    assert found is not None
    assert found.path == path
    assert found.passed_over == ()
    assert found.state == {"position": {"epoch": 1}, "best": None}
    assert found.manifest == verify(path)
    facts = {name: found.manifest[name] for name in ("step", "epoch", "best", "environment")}
    assert facts == {"step": 7, "epoch": 1, "best": False, "environment": {"torch": "2"}}
    assert list(found.parts) == ["model", "optimizer", "sampler"]
    assert found.parts["optimizer"].plain == {"type": "SGD"}
    assert found.parts["sampler"].plain == {"at": 3}
    for name, image in content(7).files.items():
        for key, tensor in image.tensors.items():
            kept = found.parts[FILES[name]].tensors[key]
            assert kept.dtype == tensor.dtype
            assert torch.equal(kept, tensor)


def test_the_same_state_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        save(tmp_path / name, 7)
    assert bytes_in(tmp_path / "a") == bytes_in(tmp_path / "b")


def test_what_was_read_is_not_the_file(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    before = bytes_in(path)
    found = read(path)
    for saved in found.parts.values():
        for tensor in saved.tensors.values():
            tensor.zero_()
    assert bytes_in(path) == before
    assert bits(read(path)) != bits(found)


def test_what_was_read_stays_when_the_files_go(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    found = read(path)
    shutil.rmtree(path)
    assert bits(found) == bits(read(save(tmp_path, 1)))


def test_a_sound_checkpoint_of_the_same_step_stays(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    before, inode = bytes_in(path), path.stat().st_ino
    written = store.save(tmp_path, 1, content(2.0), keep=1)
    assert (written.path, written.written) == (path, 0)
    assert written.manifest == verify(path)
    assert bytes_in(path) == before
    assert path.stat().st_ino == inode


@pytest.mark.parametrize("kind", ["tensor", "array"])
def test_a_tensor_that_is_named_and_in_no_file_is_damage(tmp_path: Path, kind: str) -> None:
    save(tmp_path, 1)
    handmade = content(2)
    state = json.loads(handmade.state)
    state["parts"]["sampler"] = {"at": [{"$": kind, "name": "sampler.at"}]}
    store.save(tmp_path, 2, replace(handmade, state=store.to_json(state)), keep=2)
    assert steps_in(tmp_path) == [1, 2]
    verify(tmp_path / "step-00000002")  # its hashes are right
    with pytest.raises(DamagedError, match=r"step-00000002.*'sampler'.*'sampler\.at'"):
        read(tmp_path / "step-00000002")
    found = newest(tmp_path)
    assert found is not None
    assert found.manifest["step"] == 1
    assert "sampler.at" in found.passed_over[0]
    finding = luthier.verify(tmp_path / "step-00000002").findings[0]
    assert "sampler.at" in str(finding.problem)


@pytest.mark.parametrize("damage", ["flip", "missing", "no manifest", "folder"])
def test_a_damaged_checkpoint_of_the_same_step_is_written_again(
    tmp_path: Path, damage: str
) -> None:
    path = save(tmp_path, 1)
    sound = bytes_in(path)
    file = path / ("manifest.json" if damage == "no manifest" else "optimizer.safetensors")
    whole = file.read_bytes()
    file.unlink()
    if damage == "flip":
        file.write_bytes(whole[:-1] + b"\xff")
    if damage == "folder":
        file.mkdir()
    save(tmp_path, 1)
    assert bytes_in(path) == sound
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}])
def test_a_state_that_cannot_be_written_leaves_what_was_there(tmp_path: Path, value: Any) -> None:
    save(tmp_path, 1)
    before = bytes_in(tmp_path)
    with pytest.raises((TypeError, ValueError), match="JSON"):
        save(tmp_path, 2, loss=value)
    assert bytes_in(tmp_path) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000001"]


# --- which stay -------------------------------------------------------------------------------


def test_only_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    seen = []
    for step in range(1, 9):
        save(tmp_path, step, keep=2, best=step in (1, 3, 6))
        seen.append(steps_in(tmp_path))
    assert seen == [[1], [1, 2], [2, 3], [3, 4], [3, 4, 5], [5, 6], [6, 7], [6, 7, 8]]


def test_what_is_no_checkpoint_is_left_alone(tmp_path: Path) -> None:
    others = [
        "step-notes",
        ".tmp-step-00000001-1",
        "step-",
        "step-7",
        "step-²",
        "step-٣",
        "step--1",
    ]
    for name in others:
        (tmp_path / name).mkdir()
    (tmp_path / "step-00000005").write_text("a file")
    for step in (10, 100_000_000, 99_999_999):
        save(tmp_path, step, keep=3)
    assert steps_in(tmp_path)[-3:] == [10, 99_999_999, 100_000_000]
    assert all((tmp_path / name).is_dir() for name in others)
    found = newest(tmp_path)
    assert found is not None
    assert found.manifest["step"] == 100_000_000


def test_damaged_newer_ones_do_not_push_out_the_sound(tmp_path: Path) -> None:
    # A run whose newest checkpoints are damaged goes on from an older one, and saves again.
    for step in (10, 20, 30):
        save(tmp_path, step, keep=3)
    for step in (20, 30):
        (store.directory_of(tmp_path, step) / "manifest.json").unlink()
    for step in (11, 12, 13):
        save(tmp_path, step, keep=2)
        found = newest(tmp_path)
        assert found is not None
        assert found.manifest["step"] == step
    assert [s for s in steps_in(tmp_path) if s < 20] == [12, 13]


# --- what is passed over ----------------------------------------------------------------------


def test_damaged_newer_ones_are_passed_over_and_named(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        save(tmp_path, step, keep=4)
    (tmp_path / "step-00000004" / "optimizer.safetensors").unlink()
    (tmp_path / "step-00000003" / "manifest.json").write_text("{")
    shutil.rmtree(tmp_path / "step-00000002")
    (tmp_path / "step-00000002").write_bytes(b"")
    found = newest(tmp_path)
    assert found is not None
    assert found.path.name == "step-00000001"
    assert torch.equal(found.parts["model"].tensors["fc.weight"], torch.ones(2))
    assert "step-00000004: optimizer.safetensors is missing" in found.passed_over[0]
    assert "step-00000003 has no sound manifest.json" in found.passed_over[1]


def test_all_damaged_is_an_error_that_names_each(tmp_path: Path) -> None:
    for step in (1, 2):
        (save(tmp_path, step) / "state.json").write_text("{}")
    before = bytes_in(tmp_path)
    with pytest.raises(DamagedError, match=r"step-00000002(.|\n)*step-00000001"):
        newest(tmp_path)
    assert bytes_in(tmp_path) == before


# --- damage -----------------------------------------------------------------------------------


def what_is_said(path: Path, sound: Any) -> str | None:
    """Return what is said about damage; where nothing is, all must be as it was."""
    try:
        found = read(path)
    except DamagedError as error:
        return error.what
    assert bits(found) == sound
    assert verify(path) == sound[3]
    return None


@pytest.mark.long
def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    path = save(tmp_path, 1, environment={"name": "Zoë"}, seconds=2e-07)
    sound = bits(read(path))
    harmless = []
    for file in sorted(path.iterdir()):
        whole = file.read_bytes()
        for at in range(8 * len(whole)):
            changed = bytearray(whole)
            changed[at // 8] ^= 1 << at % 8
            file.write_bytes(changed)
            said = what_is_said(path, sound)
            assert said is None or file.name in said
            if said is None:
                harmless.append((file.name, whole[: at // 8 + 1][-2:], at % 8))
        file.write_bytes(whole)
    assert bits(read(path)) == sound
    # What is left says the same in other letters: 2E-07, and the 00EB of an escaped letter.
    letters = [b"2e", b"0e", b"eb"]
    assert sorted(harmless) == sorted(("manifest.json", letter, 5) for letter in letters)


def damaged(random_: random.Random, whole: bytes) -> bytes:
    kind = random_.randrange(6)
    at, count = random_.randrange(len(whole)), random_.choice([1, 2, 7, 8, 100, 4096])
    extra = random_.choice([bytes(count), random_.randbytes(count), b"\n" * count, whole])
    return [
        whole[:at],
        whole + extra,
        whole[:at] + bytes(len(whole) - at),  # as after a power failure
        whole[:at] + extra + whole[at:],
        whole[:at] + whole[at + count :],
        extra,
    ][kind]


def test_whatever_is_cut_off_added_or_overwritten_is_found(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    sound = bits(read(path))
    files, random_ = sorted(path.iterdir()), random.Random(0)
    found = 0
    for _ in range(1000):
        file = random_.choice(files)
        whole = file.read_bytes()
        changed = damaged(random_, whole)
        file.write_bytes(changed)
        said = what_is_said(path, sound)
        if said is None:
            same = changed == whole
            assert same or (file.name == "manifest.json" and changed.split() == whole.split())
        else:
            found += 1
            assert file.name in said
            with pytest.raises(DamagedError, match=file.name.replace(".", r"\.")):
                verify(path)
        file.write_bytes(whole)
    assert found > 900
    assert bits(read(path)) == sound


@pytest.mark.parametrize("name", ["optimizer.safetensors", "state.json", "manifest.json"])
def test_a_file_that_the_disk_cannot_read_is_damage(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        save(tmp_path, step)
    bad, opened = store.directory_of(tmp_path, 2) / name, Path.open

    def refusing(self: Path, *arguments: Any, **options: Any) -> Any:
        if self == bad:
            raise OSError(errno.EIO, "Input/output error")
        return opened(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refusing)
    for look in (read, verify):
        with pytest.raises(DamagedError, match=rf"step-00000002.*{name}.*Input/output error"):
            look(bad.parent)
    found = newest(tmp_path)
    assert found is not None
    assert found.manifest["step"] == 1


def files_swapped(path: Path) -> None:
    first, second = (path / name for name in list(FILES)[:2])
    aside = path / "aside"
    first.rename(aside)
    second.rename(first)
    aside.rename(second)


def all_gone(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


def manifest_gone(path: Path) -> None:
    (path / "manifest.json").unlink()


def manifest_a_folder(path: Path) -> None:
    manifest_gone(path)
    (path / "manifest.json").mkdir()


def state_a_folder(path: Path) -> None:
    (path / "state.json").unlink()
    (path / "state.json").mkdir()


def state_empty(path: Path) -> None:
    (path / "state.json").write_bytes(b"")


def state_dangling(path: Path) -> None:
    (path / "state.json").unlink()
    (path / "state.json").symlink_to("missing")


@pytest.mark.parametrize(
    "damage",
    [
        *(files_swapped, all_gone, manifest_gone, manifest_a_folder),
        *(state_a_folder, state_empty, state_dangling),
    ],
)
def test_a_folder_that_is_not_as_it_was_is_damage(
    tmp_path: Path, damage: Callable[[Path], Any]
) -> None:
    path = save(tmp_path, 1)
    damage(path)
    for look in (read, verify):
        with pytest.raises(DamagedError, match="step-00000001"):
            look(path)
    save(tmp_path, 1)
    verify(path)


def without(manifest: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in manifest.items() if name not in names}


STATE = {"bytes": 3, "sha256": "0" * 64}
NONSENSE: list[Callable[[dict[str, Any]], Any]] = [
    lambda _m: {},
    lambda _m: {"format": 1},
    lambda m: without(m, "format"),
    lambda m: without(m, "files"),
    lambda m: without(m, "parts"),
    lambda m: without(m, "best"),
    lambda m: m | {"format": 2},
    lambda m: m | {"format": "1"},
    lambda m: m | {"files": []},
    lambda m: m | {"files": None},
    lambda m: m | {"files": {}},
    lambda m: m | {"files": without(m["files"], "state.json")},
    lambda m: m | {"files": without(m["files"], "optimizer.safetensors")},
    lambda m: m | {"files": m["files"] | {"state.json": None}},
    lambda m: m | {"files": m["files"] | {"state.json": {}}},
    lambda m: m | {"files": m["files"] | {"state.json": {"bytes": -1, "sha256": ""}}},
    lambda m: m | {"files": m["files"] | {"state.json": {"bytes": "3", "sha256": 3}}},
    lambda m: m | {"files": m["files"] | {"": m["files"]["state.json"]}},
    lambda m: m | {"files": m["files"] | {"../step-00000001/x": m["files"]["state.json"]}},
    lambda m: m | {"files": m["files"] | {"\0": m["files"]["state.json"]}},
    lambda m: m | {"parts": []},
    lambda m: m | {"parts": {"model": None}},
    lambda m: m | {"parts": {"model": ["missing.safetensors"]}},
    lambda m: m | {"parts": {"model": ["state.json"]}},
    lambda m: m | {"parts": {"model": [["x"]]}},
]


@pytest.mark.parametrize("number", range(len(NONSENSE)))
def test_a_manifest_that_makes_no_sense_is_damage(tmp_path: Path, number: int) -> None:
    # Each is sealed as luthier does it: a version to come might write it, or someone by hand.
    save(tmp_path, 1, keep=9)
    path = save(tmp_path, 2, keep=9)
    nonsense = NONSENSE[number](json.loads((path / "manifest.json").read_text()))
    nonsense.pop("sha256", None)
    (path / "manifest.json").write_text(store._sealed(nonsense))
    with pytest.raises(DamagedError, match="step-00000002"):
        read(path)
    with contextlib.suppress(DamagedError):
        verify(path)  # which looks at fewer things
    found = newest(tmp_path)
    assert found is not None
    assert found.manifest["step"] == 1
    store.save(tmp_path, 3, content(3.0), 1)
    assert steps_in(tmp_path) == [3]


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "1", '"x"', "{", "[" * 10**5, "\ufeff{}", "NaN"]
)
def test_what_is_no_manifest_is_damage(tmp_path: Path, text: str) -> None:
    path = save(tmp_path, 1)
    (path / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(DamagedError, match=r"has no sound manifest\.json"):
        read(path)


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{}", '{"parts":[]}', '{"parts":1}', "{", "\xff"]
)
def test_a_state_that_makes_no_sense_is_damage(tmp_path: Path, text: str) -> None:
    path = store.save(tmp_path, 1, Content({}, {}, text, {}), 1).path
    with pytest.raises(DamagedError, match="step-00000001"):
        read(path)


def test_a_checkpoint_before_that_says_nonsense_is_not_linked_to(tmp_path: Path) -> None:
    first = store.save(tmp_path, 1, content(1.0), 9)
    nonsense = Written(first.path, {"files": {}}, 0)
    second = store.save(tmp_path, 2, content(1.0), 9, nonsense)
    assert bits(read(second.path))[0] == bits(read(first.path))[0]
    for name in FILES:
        assert (first.path / name).stat().st_ino != (second.path / name).stat().st_ino

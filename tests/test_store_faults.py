"""Saving a checkpoint: at every operation and fault, the newest sound one is the old or the new."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from faults import ERRORS, KILLS, FaultyDisk, Victims, refused
from luthier.checkpoint import store
from luthier.errors import DamagedError
from luthier.files import disk, durable
from luthier.files.image import Image

ONLY_BY_DISK = True
BEST = 1


def content(step: int) -> store.Content:
    """Give the state after a step: a part that learns and one that is frozen."""
    tensors = {
        "learns": {"weight": torch.full((3, 5), float(step)), "bias": torch.arange(5) * step},
        "frozen": {"weight": torch.arange(7, dtype=torch.bfloat16)},
    }
    images = {f"{part}.safetensors": Image(named) for part, named in tensors.items()}
    for part, named in tensors.items():
        for name, tensor in named.items():
            images[f"{part}.safetensors"].tensors[name].copy_(tensor)
    sizes = {part: {n: t.nbytes for n, t in named.items()} for part, named in tensors.items()}
    parts = {part: {f"{part}.safetensors": sizes[part]} for part in tensors}
    state = json.dumps({"step": step, "parts": {}})
    return store.Content(images, parts, state, {"epoch": step}, best=step == BEST)


def check(found: store.Checkpoint) -> int:
    """Compare all of a checkpoint with the state that its name stands for; give its step."""
    step = int(found.state["step"])
    assert found.path.name.endswith(f"{step:08d}")
    expected = content(step)
    assert sorted(found.parts) == sorted(expected.parts)
    for part, saved in found.parts.items():
        tensors = expected.files[f"{part}.safetensors"].tensors
        assert sorted(saved.tensors) == sorted(tensors)
        assert all(torch.equal(saved.tensors[name], tensor) for name, tensor in tensors.items())
    return step


def save(root: Path, step: int) -> store.Written:
    last = store.directory_of(root, step - 1)
    before = store.Written(last, store.verify(last), 0) if last.exists() else None
    return store.save(root, step, content(step), keep=2, before=before)


def three(root: Path) -> None:
    for step in (1, 2, 3):
        save(root, step)


def three_and_a_damaged_fourth(root: Path) -> None:
    three(root)
    save(root, 4)
    file = store.directory_of(root, 4) / "learns.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))


def nothing(_root: Path) -> None:
    pass


def save_first(root: Path) -> None:
    save(root, 1)


def save_fourth(root: Path) -> None:
    save(root, 4)


def save_third_again(root: Path) -> None:
    save(root, 3)


def steps_that_are_sound(root: Path) -> list[int]:
    """Give the steps that are there and sound; each of those is compared whole."""
    found = []
    for step in store.steps_in(root):
        with contextlib.suppress(DamagedError):
            found.append(check(store.read(store.directory_of(root, step))))
    return found


# What is there, what is done; the sound steps that may be there then, of which the last are those
# after all of it.
SCENARIOS = {
    "the first": (nothing, save_first, ([], [1])),
    "one more": (three, save_fourth, ([1, 2, 3], [1, 2, 3, 4], [1, 3, 4])),
    "the same": (three, save_third_again, ([1, 2, 3],)),
    "over a damaged one": (
        three_and_a_damaged_fourth,
        save_fourth,
        ([1, 3], [1, 3, 4]),
    ),
}
each_scenario = pytest.mark.parametrize("scenario", SCENARIOS)


def prepared(tmp_path: Path, number: int, prepare: Callable[[Path], None]) -> Path:
    """Give a folder of its own to each fault; what is in it is made once."""
    first = tmp_path / "first"
    if not first.exists():
        first.mkdir()
        prepare(first)
    return shutil.copytree(first, tmp_path / str(number))


def check_all(root: Path, states: tuple[list[int], ...]) -> list[int]:
    """Check what a fault has left; give the sound steps."""
    found = steps_that_are_sound(root)
    assert found in states
    assert set(store.steps_in(root)) - {4} <= set(found)  # the fourth may have been damaged before
    newest = store.newest(root) if found else None
    assert (newest and check(newest)) == (found[-1] if found else None)
    there = store.steps_in(root)
    durable.sweep(root)
    assert sorted(path.name for path in root.iterdir()) == [f"step-{n:08d}" for n in there]
    return found


@pytest.mark.parametrize("fault", [name for name in ERRORS if name not in ("EDQUOT", "EIO")])
@each_scenario
def test_after_every_error_the_newest_sound_checkpoint_is_the_old_or_the_new(
    tmp_path: Path, scenario: str, fault: str
) -> None:
    prepare, act, states = SCENARIOS[scenario]
    for at in itertools.count():
        root = prepared(tmp_path, at, prepare)
        raised = refused(faulty := FaultyDisk(fault, at), act, root)
        assert raised == (ERRORS[fault] if faulty.fired else None), at
        found = check_all(root, states if raised else states[-1:])
        act(root)  # as the next try does
        assert steps_that_are_sound(root) == states[-1], (at, found)
        if at >= len(faulty.log):
            break


@pytest.mark.parametrize("fault", KILLS)
@each_scenario
def test_after_every_kill_the_newest_sound_checkpoint_is_the_old_or_the_new(
    tmp_path: Path, scenario: str, fault: str, victims: Victims
) -> None:
    prepare, act, states = SCENARIOS[scenario]
    whole = prepared(tmp_path, -1, prepare)
    with disk.using(counting := FaultyDisk()):
        act(whole)
    count, kills = len(counting.log), 0
    for at in range(count + 1):
        root, aside = prepared(tmp_path, at, prepare), tmp_path / f"aside-{at}"
        aside.mkdir()
        killed = victims.run(act.__name__, root, aside, fault, at)
        assert killed or fault == "kill in write", at
        kills += killed
        check_all(root, states if at < count else states[-1:])
        act(root)
        assert steps_that_are_sound(root) == states[-1], at
    assert kills or act is save_third_again  # which writes nothing


def save_again_after_a_flush_that_failed(root: Path) -> None:
    now = disk.current()
    flush = now.sync_directory

    def refuse(path: Path) -> None:
        if path == root:
            raise OSError(errno.EIO, path.name)
        flush(path)

    now.sync_directory = refuse  # type: ignore[method-assign]
    with pytest.raises(OSError, match="Errno 5"):
        save(root, 1)
    now.sync_directory = flush  # type: ignore[method-assign]
    save(root, 1)


def test_a_second_try_makes_safe_what_the_first_could_not(tmp_path: Path, victims: Victims) -> None:
    whole, root, aside = (tmp_path / name for name in ("whole", "checkpoints", "aside"))
    for folder in (whole, root, aside):
        folder.mkdir()
    act = save_again_after_a_flush_that_failed
    with disk.using(counting := FaultyDisk()):
        act(whole)
    assert victims.run(act.__name__, root, aside, "power: all", len(counting.log))
    assert steps_that_are_sound(root) == [1]

"""Runs whose home is a store: the same bits, whatever machine, upload or store fails."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import luthier
from conftest import LENET
from faults import FaultyDisk
from faulty_store import Faulty
from luthier import checkpoint
from luthier.checkpoint import Captured, Saver, State
from luthier.errors import (
    CannotWriteError,
    DamagedError,
    MissingExtraError,
    RunFolderError,
    StorageError,
    UnsupportedFileError,
)
from luthier.files import disk
from luthier.files.disk import Disk
from luthier.report import Console
from luthier.run.folder import RunFolder
from luthier.run.mirror import Mirror
from luthier.storage import Bucket, Claim, claim, is_url
from processes import PATIENCE, Forked
from ranks import together
from test_exactness import bits, differences

KNOBS: dict[str, Any] = {"model": LENET, "image_size": 32, "batch_size": 4, "workers": 0}
KNOBS |= {"weights": "none", "epochs": 3, "save_every": "2 steps", "precision": "fp32", "seed": 3}


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine with a cache of its own, on which the dead are noticed soon."""
    monkeypatch.setenv("LUTHIER_SILENCE", "0.5")
    monkeypatch.setattr(claim, "_SETTLE", 0.1)
    yield another_machine(tmp_path, monkeypatch, "first")
    Faulty.plan()


def another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
    return tmp_path / name / "luthier" / "runs"


class Told(Console):
    """Keeps what was said."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)
        super().say(text)

    def __contains__(self, text: str) -> bool:
        return any(text in line for line in self.lines)


class Patient(Told):
    """Lets the run wait, once, until there is a checkpoint in its store."""

    def __init__(self, store: Path) -> None:
        super().__init__()
        self.store = store

    def say(self, text: str) -> None:
        super().say(text)
        until = time.monotonic() + PATIENCE
        while text.startswith("val   epoch 1/") and not all_sound(self.store):
            assert time.monotonic() < until, "nothing is stored"
            time.sleep(0.05)


def finetune(photos: Path, out: Path | str, **knobs: Any) -> luthier.Result:
    given = {"console": Console(quiet=True)} | KNOBS | knobs
    return luthier.finetune(photos, out=out, **given)


def ended(function: Any) -> str:
    """Run a function in a process of its own; return how it ended and what it said."""
    process = Forked(lambda: function() and None)
    said = process.communicate()[1]
    return f"{process.returncode} {said}"


@pytest.fixture(scope="module")
def local(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("local") / "run"
    finetune(photos, out)
    return out


def assert_whole(store: Path, local: Path) -> None:
    """The store holds the local run, bit by bit, and nothing that is not sound."""
    assert differences(bits(local), bits(store)) == []
    assert json.loads((store / "summary.json").read_text())["best"]
    assert (store / "data.json").exists()
    assert all_sound(store)


def all_sound(store: Path) -> list[str]:
    """Return the checkpoints in a store, each of which must agree with its manifest."""
    found = sorted(path.parent for path in store.glob("checkpoints/*/manifest.json"))
    for path in found:
        checkpoint.verify(path)
    return [path.name for path in found]


# --- whole runs -----------------------------------------------------------------------------


def test_a_run_in_a_store_has_the_bits_of_a_local_one(
    photos: Path, tmp_path: Path, local: Path, machine: Path
) -> None:
    store = tmp_path / "store" / "ants"
    result = finetune(photos, f"file://{store}")
    assert_whole(store, local)
    assert result.run.parent == machine
    assert result.summary["model"] == f"file://{store}/model.safetensors"
    assert len(all_sound(store)) <= 3  # the two newest and the best
    again = luthier.resume(f"file://{store}", console=(told := Told()))
    assert "nothing to resume" in told
    assert again.best == result.best
    with pytest.raises(RunFolderError, match="holds a run already"):
        finetune(photos, f"file://{store}")


@pytest.mark.parametrize("at", [3, 9, 14, 23])
def test_another_machine_continues_what_was_killed_in_an_upload(
    photos: Path, tmp_path: Path, local: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    store = tmp_path / "store" / "ants"

    def victim() -> None:
        Faulty.plan(at, kill=True)
        finetune(photos, f"faulty://{store}", console=Patient(store))

    assert ended(victim).startswith("-9 ")
    before = all_sound(store)
    if not (store / "recipe.toml").exists():
        pytest.fail("killed before there was anything to resume: choose a later moment")
    another_machine(tmp_path, monkeypatch, "second")
    luthier.resume(f"file://{store}", console=(told := Told()))
    assert_whole(store, local)
    assert not before or f"continues at step {int(before[-1][5:])}" in told


def _without_manifest(newest: Path) -> None:
    (newest / "manifest.json").unlink()


def _without_a_file(newest: Path) -> None:
    (newest / "model.safetensors").unlink()


def _other_bytes(newest: Path) -> None:
    content = bytearray((newest / "optimizer.safetensors").read_bytes())
    content[-1] ^= 1
    (newest / "optimizer.safetensors").write_bytes(content)


@pytest.mark.parametrize("harm", [_without_manifest, _without_a_file, _other_bytes])
def test_a_torn_checkpoint_is_passed_over_by_name_and_made_again(
    photos: Path, tmp_path: Path, local: Path, monkeypatch: pytest.MonkeyPatch, harm: Any
) -> None:
    store = tmp_path / "ants"
    finetune(photos, f"file://{store}", console=Patient(store))
    (store / "summary.json").unlink()
    *_, older, newest = all_sound(store)
    harm(store / "checkpoints" / newest)
    another_machine(tmp_path, monkeypatch, "second")
    luthier.resume(f"file://{store}", console=(told := Told()))
    assert f"continues at step {int(older[5:])}" in told
    named = f"passed over: checkpoint file://{store}/checkpoints/{newest}: "
    assert (named in told) == (harm is not _without_manifest)
    assert_whole(store, local)


def test_where_no_checkpoint_is_sound_nothing_is_started_anew(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "ants"
    finetune(photos, f"file://{store}", epochs=1)
    (store / "summary.json").unlink()
    for path in store.glob("checkpoints/*"):
        _other_bytes(path)
    another_machine(tmp_path, monkeypatch, "second")
    with pytest.raises(DamagedError, match="no checkpoint in file://"):
        luthier.resume(f"file://{store}", console=Console(quiet=True))


def test_a_store_out_of_order_for_a_while_is_ridden_out(
    photos: Path, tmp_path: Path, local: Path
) -> None:
    store, told = tmp_path / "ants", Told()
    Faulty.plan(at=8, count=2)
    finetune(photos, f"faulty://{store}", console=told)
    assert "out of order; trying again" in told
    assert "can be written to again" in told
    assert_whole(store, local)


def test_where_the_store_stays_out_of_order_all_is_saved_here(
    photos: Path, tmp_path: Path, local: Path
) -> None:
    store = tmp_path / "ants"
    Faulty.plan(at=8, count=10**6)
    with pytest.raises(StorageError, match="out of order") as error:
        finetune(photos, f"faulty://{store}", disk_patience=0)
    all_sound(store)
    folder = next((tmp_path / "first" / "luthier" / "runs").iterdir())
    assert f"luthier resume {folder}" in str(error.value)
    assert checkpoint.newest(folder / "checkpoints") is not None
    Faulty.plan()
    luthier.resume(f"faulty://{store}", console=Console(quiet=True))
    assert_whole(store, local)


def test_verify_by_url_names_what_is_damaged(photos: Path, tmp_path: Path) -> None:
    store = tmp_path / "ants"
    finetune(photos, f"file://{store}", epochs=1)
    url = f"file://{store}"
    assert luthier.verify(url).sound
    newest = store / "checkpoints" / all_sound(store)[-1]
    assert luthier.verify(f"{url}/checkpoints/{newest.name}").kind == "checkpoint"
    _other_bytes(newest)
    found = luthier.verify(url)
    assert not found.sound
    told = f"DAMAGED  {url}/checkpoints/{newest.name}: optimizer.safetensors has another SHA-256"
    assert told in str(found)
    assert "luthier-" not in str(found)
    with pytest.raises(UnsupportedFileError, match="holds nothing"):
        luthier.verify(f"{url}/typo")


def test_a_full_disk_is_named_where_a_run_is_brought(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "ants"
    finetune(photos, f"file://{store}", epochs=1)
    (store / "summary.json").unlink()
    another_machine(tmp_path, monkeypatch, "second")
    full = FaultyDisk("dead", at=6)
    with disk.using(full), pytest.raises(CannotWriteError, match=r"cannot be brought to .*second"):
        luthier.resume(f"file://{store}", console=Console(quiet=True))
    luthier.resume(f"file://{store}", console=Console(quiet=True))


def test_what_this_machine_has_and_the_store_has_not_is_not_lost(
    photos: Path, tmp_path: Path, local: Path
) -> None:
    store = tmp_path / "ants"
    result = finetune(photos, f"file://{store}")
    newest = all_sound(store)[-1]
    for path in (store, result.run):
        (path / "summary.json").unlink()
    shutil.rmtree(store / "checkpoints" / newest)
    luthier.resume(f"file://{store}", console=(told := Told()))
    assert f"continues at step {int(newest[5:])}" in told
    assert_whole(store, local)


def test_two_processes_have_one_mirror_and_resume_from_it(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUTHIER_SILENCE", "30")
    store, whole = tmp_path / "ants", tmp_path / "whole"
    together(2, lambda _rank: finetune(photos, whole) and None)
    url, console = f"file://{store}", Patient(store)
    together(2, lambda _rank: finetune(photos, url, console=console) and None)
    assert_whole(store, whole)
    (store / "summary.json").unlink()
    _without_a_file(store / "checkpoints" / all_sound(store)[-1])
    another_machine(tmp_path, monkeypatch, "second")
    quiet = {"console": Console(quiet=True)}
    together(2, lambda _rank: luthier.resume(f"file://{store}", **quiet) and None)
    assert_whole(store, whole)


# --- a loop of one's own --------------------------------------------------------------------


def loop(place: str, epochs: int) -> torch.Tensor:
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    data = [(torch.full((4,), float(i)), i % 2) for i in range(20)]
    quiet = Console(quiet=True)
    with luthier.Run(place, seed=1, console=quiet, model=model, optimizer=optimizer) as run:
        for _ in run.epochs(epochs):
            for x, y in run.batches(data, batch_size=4, shuffle=True):
                loss = torch.nn.functional.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            run.log(loss=loss)
    return model.weight.detach()


def test_a_loop_of_ones_own_continues_on_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = loop(str(tmp_path / "local"), 4)
    url = f"file://{tmp_path}/store"
    loop(url, 2)
    another_machine(tmp_path, monkeypatch, "second")
    assert torch.equal(loop(url, 4), whole)
    mine, stored = ((tmp_path / n / "metrics.jsonl").read_text() for n in ("local", "store"))
    assert mine == stored


def test_a_script_that_ends_without_a_word_is_stored_and_frees_its_claim(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/store"
    script = tmp_path / "train.py"
    script.write_text(
        "import luthier, torch\n"
        "model = torch.nn.Linear(2, 2)\n"
        f"run = luthier.Run({url!r}, model=model)\n"
        "for epoch in run.epochs(2):\n"
        "    run.log(loss=epoch)\n"
    )
    path = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, script], env={**os.environ, "PYTHONPATH": path}, check=False, timeout=60
    )
    assert done.returncode == 0
    assert all_sound(tmp_path / "store")
    assert len((tmp_path / "store" / "metrics.jsonl").read_text().splitlines()) == 2
    found = claim.read(Bucket(url))
    assert found is not None
    assert not found.token


# --- the claim ------------------------------------------------------------------------------


def held(bucket: Bucket, grace: float = 0.6, job: str | None = None) -> Any:
    return claim.held(bucket, grace, job, lambda _line: None)


def test_of_two_machines_one_is_refused_and_the_dead_ones_claim_is_taken_over(
    tmp_path: Path,
) -> None:
    bucket = Bucket(f"file://{tmp_path}/ants")
    with held(bucket) as mine:
        with pytest.raises(RunFolderError, match="is in use by process"), held(bucket):
            pass
        mine.check(now=True)
        run = mine.run
    with held(bucket) as next_one:  # it was given back
        assert next_one.run == run
        dead = bucket.read(claim.NAME)
    bucket.write(claim.NAME, dead)  # what a kill leaves
    with held(bucket) as after:
        assert after.run == run


def test_who_loses_the_claim_stores_nothing_more(photos: Path, tmp_path: Path) -> None:
    store = tmp_path / "ants"

    class Robbed(Told):
        def say(self, text: str) -> None:
            super().say(text)
            if text.startswith("val   epoch 1/"):
                bucket = Bucket(f"file://{store}")
                other = json.loads(bucket.read(claim.NAME)) | {"token": "other", "host": "mars"}
                while b"other" not in bucket.read(claim.NAME):  # a renewal may be under way
                    bucket.write(claim.NAME, json.dumps(other).encode())

    with pytest.raises(RunFolderError, match=r"was taken over by process \d+ on mars"):
        finetune(photos, f"file://{store}", epochs=200, console=Robbed())
    assert b"other" in (store / ".claim").read_bytes()  # and it is the other's still
    all_sound(store)


def test_a_claim_that_is_none_is_named(tmp_path: Path) -> None:
    bucket = Bucket(f"file://{tmp_path}/ants")
    for content in (b"", b"[]", b"{}", b'{"format": 1, "run": "../../x"}', b"\xff"):
        bucket.write(claim.NAME, content)
        with pytest.raises(DamagedError, match=r"ants/.claim is no claim"):
            claim.read(bucket)


# --- the mirror, at each of its operations ---------------------------------------------------


def write_steps(folder: RunFolder, weights: list[float], best: int) -> Iterator[int]:
    """Save a state for each weight; a frozen tensor is the same in all."""
    saver = Saver(folder.checkpoints, keep=9)
    folder.recipe.write_text("x")
    try:
        for step, value in enumerate(weights, start=1):
            folder.metrics.write_text("{}\n" * step)
            tensors = {"w": torch.full((8,), value), "frozen": torch.ones(8)}
            part = Captured(later=tensors, still=frozenset({"frozen"}))
            facts = {"epoch": step, "environment": {}}
            saver.save(State(step, {"model": part}, {"lines": step}, facts, step == best))
            saver.wait()
            yield step
    finally:
        saver.close()


@pytest.fixture
def own_claim(tmp_path: Path) -> Iterator[Claim]:
    with held(Bucket(f"faulty://{tmp_path}/store"), grace=60) as mine:
        yield mine


def test_whatever_operation_fails_each_manifest_in_the_store_tells_the_truth(
    tmp_path: Path, own_claim: Claim
) -> None:
    template, store = RunFolder(tmp_path / "template"), tmp_path / "store"
    template.checkpoints.mkdir(parents=True)
    assert list(write_steps(template, [1.0, 2.0, 3.0, 4.0], best=1)) == [1, 2, 3, 4]
    for at in range(200):
        folder = RunFolder(tmp_path / "run")
        for path in (folder.path, *(p for p in store.iterdir() if p.name != claim.NAME)):
            if path.exists():
                Disk().remove_tree(path)
        folder.checkpoints.mkdir(parents=True)
        mirror = Mirror(folder, own_claim, keep=2, patience=0, say=lambda _line: None)
        Faulty.plan(at)
        for step in range(1, 5):
            folder.metrics.write_text("{}\n" * step)
            name = f"step-{step:08d}"
            shutil.copytree(template.checkpoints / name, folder.checkpoints / name)
            try:
                mirror.store()
            except StorageError:
                all_sound(store)
                mirror.store()
            assert all_sound(store)[-1] == name
            assert len((store / "metrics.jsonl").read_text().splitlines()) == step
        assert [int(n[5:]) for n in all_sound(store)] == [1, 3, 4]  # the best, and two
        assert not list(folder.path.glob(".tmp-*"))
        if len(Faulty.changes) <= at:
            break
    assert 20 < at < 199


def test_what_has_not_changed_is_not_uploaded_again(tmp_path: Path, own_claim: Claim) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.checkpoints.mkdir(parents=True)
    mirror = Mirror(folder, own_claim, keep=2, patience=0, say=lambda _line: None)
    sent: list[str] = []
    upload = own_claim.bucket.upload

    def noted(path: Path, name: str) -> None:
        sent.append(name)
        upload(path, name)

    own_claim.bucket.upload = noted  # type: ignore[method-assign]
    for _ in write_steps(folder, [1.0, 2.0], best=1):
        mirror.store()
    frozen = [n for n in sent if n.endswith("model-00001-of-00002.safetensors")]
    assert len(frozen) == 1
    assert "checkpoints/step-00000002/model-00002-of-00002.safetensors" in sent


# --- what is refused -------------------------------------------------------------------------


def test_urls_and_folders_are_told_apart() -> None:
    for url in ("s3://bucket/x", "memory://x", "simplecache::s3://b", "file:///tmp"):
        assert is_url(url)
    for folder in ("runs/ants", "C:/runs", "C://runs", "./s3://x", "a:b", Path("x"), None):
        assert not is_url(folder)


def test_a_missing_package_is_named_with_its_cure() -> None:
    with pytest.raises(MissingExtraError, match=r"pip install ocifs"):
        Bucket("oci://bucket/x")


def test_a_file_in_a_store_is_refused_with_its_cure() -> None:
    with pytest.raises(UnsupportedFileError, match=r"is a URL(.|\n)*copy it here first"):
        luthier.inspect("s3://bucket/model.safetensors")


def test_where_there_is_no_run_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no run to resume"):
        luthier.resume(f"file://{tmp_path}/typo")
    assert list(tmp_path.glob("typo*")) == []


def test_threads_end(photos: Path, tmp_path: Path) -> None:
    finetune(photos, f"file://{tmp_path}/ants", epochs=1)
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("luthier")]

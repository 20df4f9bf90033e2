"""Checkpoints: state by name, and directories that are sound or known to be damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from luthier.checkpoint import (
    Content,
    capture_optimizer,
    newest,
    restore_optimizer,
    save,
    steps_in,
    verify,
)
from luthier.errors import DamagedError, DoesNotFitError

Groups = list[dict[str, Any]]
Make = Callable[[Groups], torch.optim.Optimizer]


def sgd(groups: Groups) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=0.01, momentum=0.9)


def adamw(groups: Groups) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=0.01)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2))
    model.register_parameter("scale", nn.Parameter(torch.tensor(2.0)))
    return model


def grouped(model: nn.Module, *names: list[str]) -> Groups:
    named = dict(model.named_parameters())
    return [{"names": group, "params": [named[name] for name in group]} for group in names]


def one_group(model: nn.Module) -> Groups:
    return grouped(model, [name for name, _ in model.named_parameters()])


def regrouped(model: nn.Module) -> Groups:
    return grouped(model, ["2.bias", "0.weight"], ["scale"], ["2.weight", "0.bias"])


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for step in range(steps):
        images = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (model(images) * model.scale).square().mean().backward()
        optimizer.step()


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a
    )


@pytest.mark.parametrize("make", [sgd, adamw])
@pytest.mark.parametrize("groups", [one_group, regrouped])
def test_state_lands_on_the_parameter_of_its_name(
    make: Make, groups: Callable[[nn.Module], Groups]
) -> None:
    model = net()
    optimizer = make(one_group(model))
    train(model, optimizer, 3)
    captured = {n: t.clone() for n, t in capture_optimizer(optimizer).items()}
    kinds = {"momentum_buffer"} if make is sgd else {"exp_avg", "exp_avg_sq", "step"}
    names = [name for name, _ in model.named_parameters()]
    assert set(captured) == {f"{kind}/{name}" for kind in kinds for name in names}

    other = net()
    other.load_state_dict(model.state_dict())
    restored = make(groups(other))
    restore_optimizer(restored, captured)
    assert equal(capture_optimizer(restored), captured)
    for name, parameter in other.named_parameters():
        for kind in kinds:
            assert torch.equal(restored.state[parameter][kind], captured[f"{kind}/{name}"])
    train(model, optimizer, 3)
    train(other, restored, 3)
    assert equal(dict(model.state_dict()), dict(other.state_dict()))
    assert not equal(capture_optimizer(restored), captured)  # what was given is not shared


@pytest.mark.parametrize("make", [sgd, adamw])
def test_state_takes_the_memory_format_of_its_parameter(make: Make) -> None:
    model = net()
    optimizer = make(one_group(model))
    train(model, optimizer, 1)
    other = net().to(memory_format=torch.channels_last)
    restored = make(one_group(other))
    restore_optimizer(restored, capture_optimizer(optimizer))
    kind = "momentum_buffer" if make is sgd else "exp_avg"
    found = restored.state[other[0].weight][kind]
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, optimizer.state[model[0].weight][kind])


@pytest.mark.parametrize("make", [sgd, adamw])
@pytest.mark.parametrize("breaks", ["unknown", "shape"])
def test_state_that_does_not_fit_is_an_error_and_changes_nothing(make: Make, breaks: str) -> None:
    model = net()
    optimizer = make(one_group(model))
    train(model, optimizer, 2)
    captured = {n: t.clone() for n, t in capture_optimizer(optimizer).items()}
    kind = "momentum_buffer" if make is sgd else "exp_avg"
    wrong = dict(captured)
    if breaks == "unknown":
        bad = f"{kind}/9.weight"
        wrong[bad] = torch.ones(1)
    else:
        bad = f"{kind}/2.weight"
        wrong[bad] = torch.ones(16, 2)
    train(model, optimizer, 1)
    before = {n: t.clone() for n, t in capture_optimizer(optimizer).items()}
    with pytest.raises(DoesNotFitError, match=bad):
        restore_optimizer(optimizer, wrong)
    assert equal(capture_optimizer(optimizer), before)


def test_a_parameter_without_state_starts_empty() -> None:
    model = net()
    optimizer = sgd(one_group(model))
    train(model, optimizer, 2)
    captured = {n: t.clone() for n, t in capture_optimizer(optimizer).items()}
    del captured["momentum_buffer/2.bias"]
    fresh = sgd(one_group(model))
    restore_optimizer(fresh, captured)
    assert equal(capture_optimizer(fresh), captured)
    restore_optimizer(optimizer, captured)  # also where it had some
    assert equal(capture_optimizer(optimizer), captured)


def test_plain_sgd_has_no_state() -> None:
    model = net()
    optimizer = torch.optim.SGD(one_group(model), lr=0.1)
    train(model, optimizer, 1)
    assert capture_optimizer(optimizer) == {}


def test_state_that_is_no_tensor_is_named() -> None:
    model = net()
    optimizer = sgd(one_group(model))
    optimizer.state[model.scale]["note"] = "text"
    with pytest.raises(TypeError, match="note/scale is a str"):
        capture_optimizer(optimizer)


def content(value: float = 1.0) -> Content:
    return Content(
        {
            "model": {"fc.weight": torch.full((2,), value), "steps": torch.tensor(3)},
            "optimizer": {"momentum_buffer/fc.weight": torch.tensor([0.5])},
        },
        {"position": {"epoch": 1}, "best": None},
        {"epoch": 1, "environment": {"torch": "2"}},
    )


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    assert newest(tmp_path) is None
    assert newest(tmp_path / "missing") is None
    path = save(tmp_path, 7, content(), keep=2)
    assert path == tmp_path / "step-00000007"
    manifest = verify(path)
    assert set(manifest["files"]) == {"model.safetensors", "optimizer.safetensors", "state.json"}
    assert (manifest["step"], manifest["epoch"]) == (7, 1)
    found = newest(tmp_path)
    assert found is not None
    assert found.path == path
    assert found.passed_over == ()
    assert found.content.state == content().state
    assert found.content.facts == manifest
    assert found.content.tensors.keys() == content().tensors.keys()
    for part, named in content().tensors.items():
        assert equal(dict(found.content.tensors[part]), dict(named))


def test_the_same_state_gives_the_same_bytes(tmp_path: Path) -> None:
    save(tmp_path / "a", 7, content(), keep=1)
    save(tmp_path / "b", 7, content(), keep=1)
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    (tmp_path / "step-notes").mkdir()
    (tmp_path / ".tmp-step-00000001-1").mkdir()
    for step in (5, 10, 100_000_000, 99_999_999):
        save(tmp_path, step, content(step), keep=3)
    assert steps_in(tmp_path) == [10, 99_999_999, 100_000_000]
    found = newest(tmp_path)
    assert found is not None
    assert found.content.facts["step"] == 100_000_000
    assert (tmp_path / "step-notes").is_dir()


def test_a_damaged_newest_is_passed_over(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step, content(step), keep=3)
    (tmp_path / "step-00000003" / "model.safetensors").unlink()
    (tmp_path / "step-00000002" / "manifest.json").write_text("{")
    found = newest(tmp_path)
    assert found is not None
    assert found.path.name == "step-00000001"
    assert torch.equal(found.content.tensors["model"]["fc.weight"], torch.ones(2))
    assert len(found.passed_over) == 2
    assert "step-00000003: model.safetensors is missing" in found.passed_over[0]
    assert "step-00000002 has no sound manifest.json" in found.passed_over[1]


def test_all_damaged_is_an_error_that_names_each(tmp_path: Path) -> None:
    for step in (1, 2):
        (save(tmp_path, step, content(), keep=2) / "state.json").write_text("{}")
    with pytest.raises(DamagedError, match=r"step-00000002(.|\n)*step-00000001"):
        newest(tmp_path)
    assert steps_in(tmp_path) == [1, 2]


def test_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = save(tmp_path, 1, content(), keep=1)
    for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
        file = path / name
        whole = file.read_bytes()
        for at in range(len(whole)):
            changed = bytearray(whole)
            changed[at] ^= 1 << at % 8
            file.write_bytes(changed)
            with pytest.raises(DamagedError, match=name):
                verify(path)
        for other in (whole[:-1], whole + b"\n", b""):
            file.write_bytes(other)
            with pytest.raises(DamagedError, match=f"{name} is missing or has another size"):
                verify(path)
        file.write_bytes(whole)
        verify(path)


def test_every_changed_byte_of_the_manifest_is_noticed_or_concerns_no_file(
    tmp_path: Path,
) -> None:
    path = save(tmp_path, 1, content(), keep=1)
    file = path / "manifest.json"
    whole = file.read_bytes()
    files = json.loads(whole)["files"]
    refused = 0
    for at in range(len(whole)):
        for new in {whole[at] ^ 1 << bit for bit in (0, 1, 5)} | set(b'0"}'):
            if new == whole[at]:
                continue
            changed = bytearray(whole)
            changed[at] = new
            file.write_bytes(changed)
            try:
                found = verify(path)["files"]
            except DamagedError:
                refused += 1
            else:
                assert found == files, f"byte {at} became {new}"
    assert refused > len(whole)


@pytest.mark.parametrize(
    "manifest",
    [
        [],
        {},
        {"format": 1},
        {"format": 2, "files": {}},
        {"format": 1, "files": []},
        {"format": 1, "files": {"state.json": None}},
        {"format": 1, "files": {"state.json": {}}},
        {"format": 1, "files": {}},
    ],
    ids=repr,
)
def test_a_manifest_that_makes_no_sense_is_damage(tmp_path: Path, manifest: Any) -> None:
    path = save(tmp_path, 1, content(), keep=1)
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DamagedError):
        newest(tmp_path)


def test_a_sound_checkpoint_of_the_same_step_stays(tmp_path: Path) -> None:
    path = save(tmp_path, 1, content(1.0), keep=1)
    before, inode = snapshot(path), path.stat().st_ino
    assert save(tmp_path, 1, content(2.0), keep=1) == path
    assert snapshot(path) == before
    assert path.stat().st_ino == inode


@pytest.mark.parametrize("damage", ["flip", "missing", "no manifest"])
def test_a_damaged_checkpoint_of_the_same_step_is_written_again(
    tmp_path: Path, damage: str
) -> None:
    path = save(tmp_path, 1, content(), keep=1)
    sound = snapshot(path)
    model = path / "model.safetensors"
    if damage == "flip":
        model.write_bytes(model.read_bytes()[:-1] + b"\xff")
    else:
        (model if damage == "missing" else path / "manifest.json").unlink()
    save(tmp_path, 1, content(), keep=1)
    assert snapshot(path) == sound
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_state_that_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    save(tmp_path, 1, content(), keep=1)
    before = snapshot(tmp_path)
    bad = Content(content().tensors, {"loss": float("nan")}, {})
    with pytest.raises(ValueError, match="JSON"):
        save(tmp_path, 2, bad, keep=1)
    assert snapshot(tmp_path) == before
    assert steps_in(tmp_path) == [1]

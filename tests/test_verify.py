"""``luthier verify``: what is damaged is found and named, and no model is loaded."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import luthier
from luthier import verify
from luthier.cli.main import main
from luthier.errors import RunFolderError, UnsupportedFileError
from luthier.files import durable, tensors
from luthier.report import Console

STATE = {"weight": torch.arange(12.0).view(3, 4), "count": torch.tensor(7)}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with the checkpoints of steps 2, 4 and 6."""
    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    objects = {"model": model, "optimizer": optimizer}
    quiet = Console(quiet=True)
    folder = tmp_path / "run"
    with luthier.Run(folder, save_every="2 steps", keep=9, console=quiet, **objects) as loop:
        for _step in loop.steps(6):
            model(torch.randn(3, 4)).sum().backward()
            optimizer.step()
            loop.log(loss=0.5)
    return folder


def checkpoint_of(run: Path, step: int = 6) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def flip(path: Path, at: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def cut(path: Path, count: int = 1) -> None:
    path.write_bytes(path.read_bytes()[:-count])


# --- runs and checkpoints ---------------------------------------------------------------------


def test_a_sound_run_says_where_it_would_continue(run: Path) -> None:
    found = verify(run)
    assert (found.kind, found.sound) == ("run", True)
    names = [finding.path.name for finding in found.findings]
    assert names == ["step-00000002", "step-00000004", "step-00000006", "metrics.jsonl"]
    assert "6 lines" in str(found)
    assert found.notes == ("it would continue at step 6",)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit of the weights": (
        lambda path: flip(path / "model.safetensors"),
        "model.safetensors has another SHA-256 than when saved",
    ),
    "a flipped bit of the optimizer": (
        lambda path: flip(path / "optimizer.safetensors", 20),
        "optimizer.safetensors has another SHA-256",
    ),
    "a file cut short": (
        lambda path: cut(path / "model.safetensors"),
        "model.safetensors is missing or has another size",
    ),
    "a file that is gone": (lambda path: (path / "state.json").unlink(), "state.json is missing"),
    "another manifest": (
        lambda path: (path / "manifest.json").write_text("{}"),
        "no sound manifest.json",
    ),
    "a changed step": (
        lambda path: (path / "manifest.json").write_text(
            (path / "manifest.json").read_text().replace('"step": 6', '"step": 7')
        ),
        "its content is not what was written",
    ),
    "an empty manifest": (
        lambda path: (path / "manifest.json").write_text(""),
        "no sound manifest.json",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_next(run: Path, case: str) -> None:
    damage, problem = DAMAGE[case]
    path = checkpoint_of(run)
    assert verify(path).sound
    damage(path)
    alone, whole = verify(path), verify(run)
    assert (alone.kind, alone.sound) == ("checkpoint", False)
    assert not whole.sound
    for found in (alone.findings, [f for f in whole.findings if f.problem]):
        assert [finding.path for finding in found] == [path]
        assert problem in str(found[0].problem)
        assert str(path) not in str(found[0].problem), "it is said once"
    assert whole.notes == ("it would continue at step 4",)


def test_a_run_without_a_sound_checkpoint_says_so(run: Path) -> None:
    for step in (2, 4, 6):
        flip(checkpoint_of(run, step) / "model.safetensors")
    assert verify(run).notes == ("there is no sound checkpoint",)


def test_what_a_kill_leaves_is_no_damage(run: Path) -> None:
    (run / "checkpoints" / ".tmp-step-00000008-ab").mkdir()
    (run / ".tmp-metrics.jsonl-ab").write_text("{")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "log", "st')
    found = verify(run)
    assert found.sound
    assert "2 unfinished writes, which the next start removes" in found.notes
    assert "6 lines and a part of one" in str(found)
    assert len(list(run.rglob(".tmp-*"))) == 2, "verify changes nothing"


def test_a_damaged_line_of_metrics_is_named(run: Path) -> None:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:3], "{no\n", *lines[3:]]))
    (finding,) = [f for f in verify(run).findings if f.problem]
    assert finding.path == path
    assert "line 4 is no JSON" in str(finding.problem)


@pytest.mark.parametrize("count", [1, 20])
def test_metrics_that_lack_what_the_checkpoint_knows_are_damaged(run: Path, count: int) -> None:
    cut(run / "metrics.jsonl", count)
    found = verify(run)
    said = "it has 5 lines, and the newest checkpoint knows of 6"
    assert [finding.problem for finding in found.findings if finding.problem] == [said]
    with pytest.raises(RunFolderError, match="5 lines, expected 6"):
        luthier.Run(run, console=Console(quiet=True))


def test_a_checkpoint_without_its_manifest_is_no_sound_folder_of_weights(run: Path) -> None:
    (checkpoint_of(run) / "manifest.json").unlink()
    found = verify(checkpoint_of(run))
    assert found.kind == "checkpoint"
    assert str(found).endswith("it has no sound manifest.json: No such file or directory")


def test_a_run_of_finetune_is_verified_with_its_recipe_and_model(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text("[training]\nepoch = 3\n")
    (tmp_path / "metrics.jsonl").write_text("")
    tensors.write(tmp_path / "model.safetensors", STATE)
    problems = {f.path.name: f.problem for f in verify(tmp_path).findings}
    assert problems["metrics.jsonl"] is problems["model.safetensors"] is None
    assert "unknown key 'epoch'" in str(problems["recipe.toml"])


# --- files ------------------------------------------------------------------------------------


def safetensors_of(header: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(start: int, end: int, shape: list[int] | None = None) -> dict[str, Any]:
    return {"dtype": "U8", "shape": shape or [end - start], "data_offsets": [start, end]}


FILES: dict[str, tuple[bytes, str | None]] = {
    "sound": (safetensors_of({"a": entry(0, 4), "b": entry(4, 8)}, bytes(8)), None),
    "empty tensors": (safetensors_of({"a": entry(0, 0, [0, 3])}, b""), None),
    "no tensors": (safetensors_of({}, b""), None),
    "truncated": (safetensors_of({"a": entry(0, 4)}, bytes(3)), "bytes are described"),
    "extended": (safetensors_of({"a": entry(0, 4)}, bytes(9)), "bytes are described"),
    "overlapping": (
        safetensors_of({"a": entry(0, 4), "b": entry(2, 6)}, bytes(6)),
        "'b' begins at byte 2 of the data, expected 4",
    ),
    "with a hole": (
        safetensors_of({"a": entry(0, 4), "b": entry(6, 8)}, bytes(8)),
        "'b' begins at byte 6 of the data, expected 4",
    ),
    "another size": (
        safetensors_of({"a": entry(0, 4, [5])}, bytes(4)),
        "'a' is U8 of shape [5], which takes 5 bytes, and has 4",
    ),
    "an unknown dtype": (
        safetensors_of({"a": {**entry(0, 4), "dtype": "Q7"}}, bytes(4)),
        "'a' has the dtype 'Q7', which is none",
    ),
    "a header beyond the end": (struct.pack("<Q", 10**6) + b'{"a"', "header of 1000000 bytes"),
    "a header that is no JSON": (struct.pack("<Q", 5) + b"{nope" + bytes(3), "damaged"),
}


@pytest.mark.parametrize("case", FILES)
def test_the_structure_of_a_safetensors_file(tmp_path: Path, case: str) -> None:
    content, problem = FILES[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    found = verify(path)
    assert found.kind == "file"
    if problem is None:
        assert found.sound
        assert durable.sha256(path)[:16] in str(found)
    else:
        (finding,) = found.findings
        assert problem in str(finding.problem)
        assert str(found).startswith(f"DAMAGED  {path}: ")
        assert str(found).count(str(path)) == 1, "it is said once"


def test_what_luthier_writes_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    tensors.write(path, STATE)
    assert str(verify(path)).startswith(f"sound    {path}  safetensors, 2 tensors, ")


def test_a_torch_file_is_compared_with_its_checksums(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(STATE, path)
    assert verify(path).sound
    place = path.read_bytes().index(STATE["weight"].numpy().tobytes())
    flip(path, place + 5)
    (finding,) = verify(path).findings
    assert "CRC-32" in str(finding.problem)
    cut(path, 40)
    assert not verify(path).sound


def test_a_name_that_ends_with_another_hash_is_found(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "made.pth")
    digest = durable.sha256(tmp_path / "made.pth")
    right, wrong = (tmp_path / f"net-{name}.pth" for name in (digest[:8], "0badf00d"))
    for path in (right, wrong):
        path.write_bytes((tmp_path / "made.pth").read_bytes())
    assert verify(right).sound
    (finding,) = verify(wrong).findings
    assert f"SHA-256 begins with {digest[:8]}, its name says 0badf00d" in str(finding.problem)


def test_an_empty_file_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.touch()
    (finding,) = verify(path).findings
    assert "is empty" in str(finding.problem)


class Trap:
    """Anyone who unpickles it is caught."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("code of a file was run",)


def test_code_in_a_file_is_named_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "thing.pkl"
    path.write_bytes(pickle.dumps(Trap(), 2))
    found = verify(path)
    assert found.sound, "nothing in it is damaged"
    assert any("pytest.outcomes" in note for note in found.findings[0].notes)


def test_what_is_no_weights_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "thing.pkl"
    path.write_bytes(b"to do: nothing at all")
    with pytest.raises(UnsupportedFileError, match="is text, no weights file: it begins with 'to"):
        verify(path)


def test_a_torch_file_of_the_old_kind_is_read(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save(STATE, path, _use_new_zipfile_serialization=False)
    assert "2 tensors" in str(verify(path))
    cut(path)
    assert not verify(path).sound


def test_a_path_that_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedFileError, match=r"holds no weights\n  it is empty"):
        verify(tmp_path)
    with pytest.raises(UnsupportedFileError, match="does not exist"):
        verify(tmp_path / "nowhere")


# --- the command ------------------------------------------------------------------------------


def test_exit_status_and_output(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["sound"] * 4
    flip(checkpoint_of(run) / "model.safetensors")
    assert main(["verify", str(run)]) == 1
    assert f"DAMAGED  {checkpoint_of(run)}: model.safetensors" in capsys.readouterr().out
    assert main(["verify", str(run / "nowhere")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_json(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(checkpoint_of(run) / "model.safetensors")
    assert main(["verify", str(run), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found == verify(run).as_dict()
    assert not found["sound"]
    assert [f["path"] for f in found["findings"] if f["problem"]] == [str(checkpoint_of(run))]


# --- what is no damage, and is told ---------------------------------------------------------------


def test_numbers_that_are_not_finite_are_told_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = torch.ones(3, 4)
    bad[0, 1], bad[2, 2], bad[2, 3] = float("nan"), float("inf"), float("-inf")
    state = {"net": {"sound": torch.ones(2), "head.weight": bad, "half": bad.bfloat16()[:2]}}
    torch.save(state, tmp_path / "w.pt")
    (finding,) = verify(tmp_path / "w.pt").findings
    assert finding.problem is None
    assert finding.notes == (
        "not finite: net.head.weight: 1 NaN and 2 infinite",
        "not finite: net.half: 1 NaN",
    )
    assert main(["verify", str(tmp_path / "w.pt")]) == 0
    assert "note: not finite: net.half: 1 NaN" in capsys.readouterr().out
    assert verify(tmp_path / "w.pt").as_dict()["findings"][0]["notes"] == list(finding.notes)


def test_of_many_such_tensors_the_first_are_told(tmp_path: Path) -> None:
    tensors.write(tmp_path / "w", {f"{i:03d}": torch.tensor(float("nan")) for i in range(30)})
    notes = verify(tmp_path / "w").findings[0].notes
    assert len(notes) == 21
    assert notes[-1] == "and 10 more like this"


def test_a_checkpoint_whose_weights_ran_away_is_sound_with_a_note(tmp_path: Path) -> None:
    model = torch.nn.Linear(1, 1)
    with luthier.Run(
        tmp_path / "run", save_every="1 steps", model=model, console=Console(quiet=True)
    ) as loop:
        for _step in loop.steps(1):
            with torch.no_grad():
                model.bias.fill_(float("inf"))
    found = verify(checkpoint_of(tmp_path / "run", 1))
    assert found.sound
    assert found.findings[0].notes == ("not finite: model.bias: 1 infinite",)


def test_tensors_that_luthier_does_not_give_are_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", names=np.array(["a", "b"]), w=np.ones(2))
    (finding,) = verify(tmp_path / "w.npz").findings
    assert finding.problem is None
    assert finding.notes == ("tensor names holds texts (numpy's '<U1')",)


def test_shards_are_verified_one_and_all(tmp_path: Path) -> None:
    for name in ("a", "b"):
        torch.save({name: torch.ones(5)}, tmp_path / f"{name}.bin")
    where = {"a": "a.bin", "b": "b.bin"}
    (tmp_path / "x.index.json").write_text(json.dumps({"weight_map": where}))
    assert (verify(tmp_path).kind, verify(tmp_path).sound) == ("folder", True)
    place = (tmp_path / "b.bin").read_bytes().index(torch.ones(5).numpy().tobytes())
    flip(tmp_path / "b.bin", place)
    (finding,) = verify(tmp_path).findings
    assert "b.bin" in str(finding.problem)
    assert "CRC-32" in str(finding.problem)

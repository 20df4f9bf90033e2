"""The command line as a user meets it: real processes, real signals, real messages."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import luthier
from conftest import LENET, write_photos
from luthier import cli
from luthier.cli.main import COMMANDS, main
from luthier.run.folder import existing_run, held
from processes import luthier as luthier_process

QUICK = ["--model", LENET, "--image-size", "32", "--workers", "0", "--batch-size", "4"]
SCRATCH = [*QUICK, "--weights", "none"]
# One thread a process: the tests may run side by side.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "luthier", *map(str, words)]


def call(
    *words: str | Path, cwd: Path | None = None, status: int = 0, fresh: bool = False
) -> SimpleNamespace:
    """Run a command to its end, in a forked process or in one that is started anew."""
    process: Any
    if fresh:
        process = subprocess.Popen(
            command(*words), stdout=-1, stderr=-1, text=True, cwd=cwd, env=ENVIRONMENT
        )
    else:
        process = luthier_process(*words, cwd=cwd)
    out, said = process.communicate()
    assert process.returncode == status, said
    return SimpleNamespace(stdout=out, stderr=said)


def modules_after(code: str) -> set[str]:
    printed = f"{code}\nimport sys\nprint(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", printed], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


def test_importing_luthier_and_asking_for_help_load_no_heavy_package() -> None:
    heavy = {"torch", "numpy", "PIL", "matplotlib", "torchvision", "safetensors", "tqdm"}
    assert not modules_after("import luthier") & heavy
    for command in ([], ["finetune"], ["resume"], ["tune"], ["predict"], ["evaluate"]):
        words = [*command, "--help"]
        ask = f"from luthier.cli.main import main\ntry: main({words})\nexcept SystemExit: pass"
        assert not modules_after(ask) & heavy


@pytest.mark.parametrize(
    ("before", "printed"),
    [
        ("print('work')", "work\nat exit\n"),
        ("threading.Timer(0.2, print, ['thread']).start()", "thread\nat exit\n"),
        (
            "t = threading.Event(); threading.Thread(target=t.wait, daemon=True).start()",
            "at exit\n",
        ),
    ],
    ids=["alone", "a thread is not done", "a thread never is"],
)
def test_a_command_ends_at_once_and_leaves_nothing_undone(before: str, printed: str) -> None:
    code = "import atexit, threading\nfrom luthier.cli.main import leave\n"
    code += f"atexit.register(print, 'at exit')\n{before}\nleave(3)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, printed, "")


def test_help_names_every_command_once_by_what_one_does(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    modules = {path.stem for path in Path(cli.__file__).parent.glob("*.py")}
    for title, group in COMMANDS.items():
        part = text.split(f"\n{title}:\n")[1].split("\n\n")[0]
        assert [line.split()[0] for line in part.splitlines()] == [c.name for c in group]
        assert {command.name for command in group} <= modules
    for command in (command for group in COMMANDS.values() for command in group):
        assert text.count(f"\n  {command.name} ") == 1
        with pytest.raises(SystemExit):
            main([command.name, "--help"])
        assert capsys.readouterr().out.startswith(f"usage: luthier {command.name} ")


def test_the_public_names_are_these() -> None:
    assert luthier.__all__ == [
        "Checkup",
        "Comparison",
        "Evaluated",
        "Evaluation",
        "Inspection",
        "LuthierError",
        "Prediction",
        "Predictor",
        "Result",
        "Run",
        "compare",
        "convert",
        "demo",
        "describe",
        "diff",
        "doctor",
        "evaluate",
        "export",
        "finetune",
        "inspect",
        "lease",
        "load",
        "load_model",
        "load_optimizer",
        "match",
        "memory_report",
        "param_groups",
        "pick_device",
        "prove",
        "register",
        "resume",
        "save",
        "seed_everything",
        "to",
        "tune",
        "verify",
        "write_report",
    ]
    assert all(getattr(luthier, name).__name__ for name in luthier.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        luthier.nope  # noqa: B018


REFUSED = {
    "an unknown flag": (
        ["--stratgy", "full"],
        "unknown flag '--stratgy' (did you mean '--strategy'",
    ),
    "a flag without effect": (
        ["--trunk-lr-scale", "0.5"],
        "--trunk-lr-scale 0.5 has no effect with --strategy full",
    ),
    "a frozen random trunk": (
        ["--strategy", "frozen", "--weights", "none"],
        "a random trunk that is frozen learns nothing",
    ),
    "an unknown model": (["--model", "resnet81"], "unknown model 'resnet81' (did you mean"),
    "no such weights": (["--weights", "nowhere.pth"], "weights file nowhere.pth does not exist"),
    "a device that is not there": (
        ["--device", "cuda:7"],
        "--device cuda:7 is not on this machine",
    ),
    "a number out of range": (["--lr", "0"], "--lr 0.0 is too small: it must be above 0"),
    "no number": (["--epochs", "many"], "invalid int value: 'many'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_request_ends_with_status_2_and_writes_nothing(
    photos: Path, tmp_path: Path, case: str
) -> None:
    words, message = REFUSED[case]
    done = call("finetune", photos, *words, cwd=tmp_path, status=2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_command_names_the_nearest(tmp_path: Path) -> None:
    done = call("finetuen", tmp_path, status=2, fresh=True)
    assert "unknown command 'finetuen' (did you mean 'finetune'?)" in done.stderr


def test_wrong_weights_end_with_status_1(photos: Path, shared: Path, tmp_path: Path) -> None:
    weights = shared / "weights" / "mobilenet_v2-b0353104.pth"
    words = ["--model", "squeezenet1_1", "--weights", weights]
    done = call("finetune", photos, *words, cwd=tmp_path, status=1)
    assert "do not fit the model (0.0 % covered, 100 % asked for)" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_has_enough_ends_a_command_quietly(tmp_path: Path) -> None:
    state = {f"layer{number}.weight": torch.zeros(1) for number in range(20_000)}
    save_file(state, tmp_path / "many.safetensors")
    command = [
        sys.executable,
        "-m",
        "luthier",
        "inspect",
        str(tmp_path / "many.safetensors"),
        "--all",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait() == 141
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_a_pipe_gets_one_line_an_epoch_and_standard_output_the_model(
    photos: Path, tmp_path: Path
) -> None:
    words = [*SCRATCH, "--epochs", "2", "--out", "run"]
    done = call("finetune", photos, *words, cwd=tmp_path, fresh=True)
    lines = done.stderr.splitlines()
    assert lines[0].startswith("device cpu (no accelerator found), workers ")
    assert "workers 0 (asked for)" in lines[0]
    epochs = [line.split() for line in lines if line.split()[0] in ("train", "val")]
    assert [words[:3] for words in epochs] == [
        ["train", "epoch", "1/2"],
        ["val", "epoch", "1/2"],
        ["train", "epoch", "2/2"],
        ["val", "epoch", "2/2"],
    ]
    assert all(words[3:5] == ["iteration", f"{7 * int(words[2][0])}/14"] for words in epochs)
    assert all({"loss", "accuracy", "lr", "s"} <= set(words) for words in epochs)
    assert "\r" not in done.stderr
    assert "95 % interval" in done.stderr
    assert done.stdout.strip() == str(tmp_path / "run" / "model.safetensors")
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        ".lock",
        "checkpoints",
        "curves.png",
        "data.json",
        "log.txt",
        "metrics.jsonl",
        "model.safetensors",
        "predictions.safetensors",
        "recipe.toml",
        "report.html",
        "summary.json",
    ]
    assert (tmp_path / "run" / "log.txt").read_text() == done.stderr


def test_json_prints_one_object_and_nothing_else(photos: Path, tmp_path: Path) -> None:
    words = [*SCRATCH, "--epochs", "1", "--json"]
    done = call("finetune", photos, *words, cwd=tmp_path)
    summary = json.loads(done.stdout)
    assert summary == json.loads((tmp_path / "runs" / photos.name / "summary.json").read_text())
    assert summary["best"]["images"] == 11
    assert summary["images"] == {"train": {"cat": 17, "dog": 11}, "val": {"cat": 6, "dog": 5}}


def test_a_recipe_runs_again_and_flags_go_on_top(photos: Path, tmp_path: Path) -> None:
    call("finetune", photos, *SCRATCH, "--epochs", "1", "--seed", "5", "--out", "a", cwd=tmp_path)
    again = ["--recipe", "a/recipe.toml", "--out", "b"]
    call("finetune", photos, *again, cwd=tmp_path)
    call("finetune", photos, *again[:-1], "c", "--seed", "6", cwd=tmp_path)
    a, b, c = ((tmp_path / n / "model.safetensors").read_bytes() for n in "abc")
    assert a == b
    assert a != c
    (tmp_path / "bad.toml").write_text("[training]\nepoch = 3\n")
    done = call("finetune", photos, "--recipe", "bad.toml", cwd=tmp_path, status=2)
    assert "bad.toml: unknown key 'epoch' (did you mean 'epochs'?)" in done.stderr


def test_a_run_is_not_overwritten(photos: Path, tmp_path: Path) -> None:
    words = [*SCRATCH, "--epochs", "1", "--out", "run"]
    call("finetune", photos, *words, cwd=tmp_path)
    before = (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns
    done = call("finetune", photos, *words, cwd=tmp_path, status=2)
    assert "run holds a run already" in done.stderr
    assert (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns == before


TWELVE = [*SCRATCH, "--epochs", "12", "--save-every", "5 steps", "--momentum", "0.8"]
TWELVE[TWELVE.index("--workers") + 1] = "2"


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve epochs that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    call("finetune", photos, *TWELVE, "--out", "whole", cwd=folder)
    return folder / "whole"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL])
def test_a_signal_and_resume_end_with_the_bits_of_a_whole_run(
    photos: Path, whole: Path, tmp_path: Path, number: signal.Signals
) -> None:
    process = luthier_process("finetune", photos, *TWELVE, "--out", "cut", cwd=tmp_path)
    assert any(line.startswith("val   epoch 2/") for line in process.stderr)
    os.killpg(process.pid, number)  # workers too, as a terminal and schedulers do
    _, said = process.communicate()
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130, said
        assert "stopped and saved at step" in said
        assert "continue with: luthier resume" in said
    call("resume", "cut", "--workers", "1", cwd=tmp_path)
    cut = tmp_path / "cut"
    for name in ("model.safetensors", "checkpoints/step-00000084/model.safetensors"):
        assert (whole / name).read_bytes() == (cut / name).read_bytes()
    steps = [
        [r["iteration"] for r in map(json.loads, text.splitlines()) if r["kind"] == "step"]
        for text in ((run / "metrics.jsonl").read_text() for run in (whole, cut))
    ]
    assert steps[0] == steps[1] == list(range(1, 85))


def test_a_run_at_work_is_held_and_a_kill_frees_it(photos: Path, tmp_path: Path) -> None:
    words = [*SCRATCH, "--epochs", "100000", "--out", "run"]
    words[words.index("--workers") + 1] = "1"
    process = luthier_process("finetune", photos, *words, cwd=tmp_path)
    assert any(line.startswith("val   epoch 1/") for line in process.stderr)
    second = call("resume", "run", cwd=tmp_path, status=2)
    assert f"is in use by process {process.pid}" in second.stderr
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()  # its worker ends by itself
    with held(existing_run(tmp_path / "run")):
        pass


def test_unreadable_images_are_listed_and_left_out(tmp_path: Path) -> None:
    data = write_photos(tmp_path / "data", {"cat": 8, "dog": 8})
    whole = (data / "cat" / "000.png").read_bytes()
    (data / "cat" / "cut.png").write_bytes(whole[:700])
    (data / "dog" / "text.jpg").write_text("hello")
    words = [*SCRATCH, "--epochs", "1"]
    done = call("finetune", data, *words, cwd=tmp_path)
    assert "2 unreadable images left out:" in done.stderr
    assert "dog/text.jpg: not an image: begins with b'hello'" in done.stderr
    assert "cat/cut.png: " in done.stderr
    done = call("finetune", data, *words, "--strict-images", cwd=tmp_path, status=2)
    assert "2 unreadable images in" in done.stderr


TRUNK_THAT_MOVES = """
import torch
class Model(torch.nn.Module):
    def __init__(self, num_classes=2):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.trunk = torch.nn.Linear(4, 4)
        self.trunk.register_buffer("calls", torch.zeros(()))
        self.fc = torch.nn.Linear(4, num_classes)
    def forward(self, x):
        self.trunk.calls += 1
        return self.fc(self.trunk(self.conv(x).mean((2, 3))))
"""


def test_a_frozen_part_that_moves_is_an_error(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(TRUNK_THAT_MOVES)
    words = ["--model", "mine:Model", "--image-size", "32", "--workers", "0", "--epochs", "1"]
    first = ["--strategy", "scratch", "--out", "start"]
    call("finetune", photos, *words, *first, cwd=tmp_path)
    frozen = ["--strategy", "frozen", "--weights", "start/model.safetensors", "--out", "run"]
    done = call("finetune", photos, *words, *frozen, cwd=tmp_path, status=1)
    assert "1 frozen tensors moved: trunk.calls" in done.stderr
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_loss_that_is_no_number_stops_the_run(photos: Path, tmp_path: Path) -> None:
    words = [*SCRATCH, "--lr", "1e30", "--epochs", "3", "--out", "run"]
    done = call("finetune", photos, *words, cwd=tmp_path, status=1)
    assert "the loss became" in done.stderr
    assert "lower --lr" in done.stderr


@pytest.mark.long
def test_the_demo_says_identical(tmp_path: Path) -> None:
    pytest.importorskip(
        "sklearn", reason="scikit-learn is not installed: pip install 'luthier[demo]'"
    )
    done = call("demo", "--out", "demo", cwd=tmp_path, fresh=True)
    assert "138 steps: identical bits" in done.stdout
    # The save of the last epoch may still have been under way at the kill.
    assert re.search(r"\(exit code -9\); resumed at step (23|46|69)", done.stdout)
    assert all(name in done.stdout for name in ("scratch", "full", "frozen", "discriminative"))
    assert (tmp_path / "demo" / "strategies.png").stat().st_size > 10_000


@pytest.mark.long
def test_the_main_job_on_real_photos(shared: Path, tmp_path: Path) -> None:
    weights = shared / "weights" / "mobilenet_v2-b0353104.pth"
    words = ["--model", "mobilenet_v2", "--weights", weights, "--strategy", "frozen"]
    more = ["--epochs", "2", "--seed", "1", "--json"]
    done = call("finetune", shared / "hymenoptera", *words, *more, cwd=tmp_path, fresh=True)
    summary = json.loads(done.stdout)
    assert "1 file is no image by extension and left out" in done.stderr
    assert summary["best"]["images"] == 153
    assert summary["best"]["accuracy"] > 0.9
    assert summary["start"]["sha256"].startswith("b0353104")
    assert "312 of 312 tensors loaded, 2 new" in summary["start"]["loaded"]
    moved = [block for block, count, _ in summary["audit"] if count]
    assert moved == ["classifier.1"]

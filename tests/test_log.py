"""The writers of ``--log``: what readers of theirs see is ``metrics.jsonl``, and no run is lost."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import luthier
from conftest import LENET
from luthier.cli.main import main
from luthier.errors import RecipeError
from luthier.recipe import Recipe, resolve, values
from luthier.report import Console
from luthier.run import writers
from luthier.run.conditions import changed_recipe
from luthier.run.folder import RunFolder
from luthier.run.writers import Writers, opened
from processes import PATIENCE, Forked
from processes import luthier as luthier_process
from ranks import together

ROOT = Path(__file__).resolve().parents[1]
SMALL: dict[str, Any] = {"model": LENET, "image_size": 32, "batch_size": 4, "workers": 0}
WORDS = [w for n, v in SMALL.items() for w in (f"--{n.replace('_', '-')}", str(v))]
WORDS += ["--weights", "none"]

# A user's own writers. The first keeps what it is told, and where.
MINE = """
import json, threading

class Kept:
    def begin(self, run, recipe, iteration):
        self.place = run / "kept.jsonl"
        self.keep(begin=iteration, epochs=recipe["epochs"], thread=threading.get_ident())
    def write(self, record):
        self.keep(**record)
    def close(self):
        self.keep(close=True, thread=threading.get_ident())
    def keep(self, **what):
        with self.place.open("a") as file:
            file.write(json.dumps(what) + "\\n")

class NoBegin(Kept):
    def begin(self, run, recipe, iteration):
        raise OSError("no server")
class NoWrite(Kept):
    def write(self, record):
        raise ValueError("no number\\nin two lines")
class NoClose(Kept):
    def close(self):
        raise SystemExit(3)
class Half:
    def begin(self, run, recipe, iteration): ...
    def write(self, record): ...
def broken():
    raise KeyError("token")
not_callable = 3
"""


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with writers in it."""
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return tmp_path


def finetune(photos: Path, out: Path, **knobs: Any) -> luthier.Result:
    given = SMALL | {"weights": "none", "epochs": 2} | knobs
    return luthier.finetune(photos, out=out, console=Console(quiet=True), **given)


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def kept(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "kept.jsonl").read_text().splitlines()]


Scalars = dict[str, list[tuple[int, float]]]


def shown(run: Path) -> Scalars:
    """Return what TensorBoard shows of a run."""
    if not (run / "tensorboard").is_dir():
        return {}
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    tags = events.Tags()["scalars"]
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags}


def expected(run: Path) -> Scalars:
    found: Scalars = {}
    for record in lines(run):
        for name in ("loss", "accuracy", "lr"):
            if name in record:
                values = found.setdefault(f"{name}/{record['kind']}", [])
                values.append((record["iteration"], float(np.float32(record[name]))))
    return found


def test_tensorboard_shows_the_numbers_of_metrics_and_changes_no_bit(
    photos: Path, tmp_path: Path
) -> None:
    plain = finetune(photos, tmp_path / "plain")
    logged = finetune(photos, tmp_path / "logged", log="tensorboard")
    assert shown(logged.run) == expected(logged.run)
    assert {len(values) for values in shown(logged.run).values()} == {14, 2}
    events = EventAccumulator(str(logged.run / "tensorboard")).Reload()
    (text,) = events.Tensors("recipe/text_summary")
    assert b"| batch_size | 4 |" in text.tensor_proto.string_val[0]
    assert plain.model.read_bytes() == logged.model.read_bytes()


def test_the_start_that_is_scored_and_steps_that_accumulate_are_shown(
    photos: Path, tmp_path: Path
) -> None:
    start = finetune(photos, tmp_path / "start", epochs=1)
    knobs = {"head": "by-name", "accumulate": 3, "weights": str(start.model)}
    run = finetune(photos, tmp_path / "run", log="tensorboard", **knobs).run
    assert shown(run) == expected(run)
    assert [step for step, _ in shown(run)["loss/val"]] == [0, 7, 14]


def test_a_probe_is_shown_too(photos: Path, tmp_path: Path) -> None:
    start = finetune(photos, tmp_path / "start", epochs=1)
    knobs = {"strategy": "probe", "weights": str(start.model), "epochs": None}
    run = finetune(photos, tmp_path / "run", log="tensorboard", **knobs).run
    assert shown(run) == expected(run) != {}


def test_what_was_before_the_events_is_shown_from_metrics(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    text = [json.dumps(record) + "\n" for record in RECORDS]
    folder.metrics.write_text("".join(text[:4]))
    at_work = Writers(opened("tensorboard"), folder, {}, pytest.fail)
    folder.metrics.write_text("".join(text[:6]))  # as the run goes on
    for record in RECORDS[4:]:
        at_work.write(record)
    at_work.close()
    folder.metrics.write_text("".join(text))
    assert shown(tmp_path) == expected(tmp_path) != {}


def newest(run: Path) -> int:
    names = [p.name for p in run.glob("checkpoints/step-*")]
    return max((int(name.removeprefix("step-")) for name in names), default=10**9)


def furthest(run: Path) -> int:
    return max((step for values in shown(run).values() for step, _ in values), default=0)


def test_after_a_kill_nothing_is_shown_twice_and_nothing_is_missing(
    photos: Path, cwd: Path
) -> None:
    words = [*WORDS, "--epochs", "60", "--save-every", "10 epochs", "--out", "run"]
    log = ["--log", "tensorboard, mine:Kept"]
    process = luthier_process("finetune", photos, *words, *log, cwd=cwd)
    run, until = cwd / "run", time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < until:
        if newest(run) < furthest(run) < newest(run) + 50:  # and the next save is some way off
            os.killpg(process.pid, signal.SIGKILL)
            break
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    saved = newest(run)
    assert furthest(run) > saved, "there is nothing to hide"
    again = luthier_process("resume", "run", cwd=cwd)
    said = again.communicate()[1]
    assert again.returncode == 0, said
    assert shown(run) == expected(run)
    # A writer is told where the run goes on, and is given again what comes after that.
    told = kept(run)
    begins = [place for place, line in enumerate(told) if "begin" in line]
    assert [told[place]["begin"] for place in begins] == [0, saved + 1]
    timeless = [{k: v for k, v in r.items() if k != "seconds"} for r in told[begins[1] + 1 : -1]]
    later = [r for r in lines(run) if r["iteration"] > saved]
    assert timeless == [{k: v for k, v in r.items() if k != "seconds"} for r in later]
    assert "close" in told[-1]


def test_a_writer_of_ones_own_is_called_in_one_thread(photos: Path, cwd: Path) -> None:
    run = finetune(photos, cwd / "run", log="mine:Kept").run
    first, *records, last = kept(run)
    assert records == lines(run)
    assert (first["begin"], first["epochs"], last["close"]) == (0, 2, True)
    assert first["thread"] == last["thread"] != threading.get_ident()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("NoBegin", "OSError: no server"),
        ("NoWrite", "ValueError: no number"),
        ("NoClose", "SystemExit: 3"),
    ],
)
def test_a_writer_that_fails_is_named_once_and_ends_no_run(
    photos: Path, cwd: Path, name: str, reason: str
) -> None:
    run = finetune(photos, cwd / "run", log=f"mine:{name},tensorboard").run
    said = (run / "log.txt").read_text()
    assert said.count(f"writer mine:{name} failed: {reason}; metrics.jsonl goes on\n") == 1
    assert said.count("\nwriter ") == 1
    assert shown(run) == expected(run)
    assert (run / "summary.json").exists()


class Waiting:
    """Does nothing until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.took = 0

    def begin(self, *_: Any) -> None:
        self.go.wait()

    def write(self, _record: dict[str, Any]) -> None:
        self.took += 1

    def close(self) -> None: ...


def beside(writer: Any, folder: Path, say: Callable[[str], object]) -> Writers:
    (folder / "metrics.jsonl").touch()
    return Writers({"mine:slow": writer}, RunFolder(folder), {}, say)


def test_what_a_slow_writer_cannot_take_is_left_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers, "_MOST", 5)
    said: list[str] = []
    writer = Waiting()
    at_work = beside(writer, tmp_path, said.append)
    for iteration in range(12):
        at_work.write({"iteration": iteration})
    assert said == [
        "writer mine:slow does not keep up: records are left out; metrics.jsonl has all"
    ]
    writer.go.set()
    at_work.close()
    assert said[1:] == ["writer mine:slow did not take 7 records; metrics.jsonl has all"]
    assert writer.took == 5


def test_a_writer_that_hangs_is_left_behind_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers, "_PATIENCE", 0.05)
    said: list[str] = []
    writer = Waiting()
    at_work = beside(writer, tmp_path, said.append)
    for iteration in range(3):
        at_work.write({"iteration": iteration})
    at_work.close()
    writer.go.set()
    assert said == [
        "writer mine:slow does not end: it is left behind",
        "writer mine:slow did not take 3 records; metrics.jsonl has all",
    ]


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("tensorbord", "--log 'tensorbord' is unknown (did you mean 'tensorboard'?)"),
        ("nowhere:Writer", "writer 'nowhere:Writer' was not found: ModuleNotFoundError"),
        ("mine:Nothing", "writer 'mine:Nothing' was not found: AttributeError"),
        ("mine:not_callable", "mine:not_callable is a int, expected a function or class"),
        ("mine:broken", "mine:broken could not be called: KeyError: 'token'"),
        ("mine:Half", "mine:Half returned a Half without close(), expected a writer"),
    ],
)
def test_a_wrong_name_is_refused_before_anything_is_written(
    photos: Path, cwd: Path, log: str, reason: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        finetune(photos, cwd / "run", log=log)
    assert str(caught.value).startswith(reason)
    assert caught.value.cure is not None or "mine" in log
    assert not (cwd / "run").exists()


def test_without_tensorboard_the_extra_is_named(photos: Path, tmp_path: Path) -> None:
    def without() -> int:
        for name in list(sys.modules):
            if name.startswith(("torch.utils.tensorboard", "luthier.run.tensorboard")):
                del sys.modules[name]
        sys.modules["tensorboard"] = None  # type: ignore[assignment]
        return main(["finetune", str(photos), *WORDS, "--out", "run", "--log", "tensorboard"])

    process = Forked(without, tmp_path)
    _, said = process.communicate()
    assert process.returncode == 2
    assert "install it with: pip install 'luthier[tensorboard]'" in said
    assert not (tmp_path / "run").exists()


def test_of_several_processes_one_writes(photos: Path, cwd: Path) -> None:
    def job(_rank: int) -> int:
        finetune(photos, cwd / "run", log="tensorboard,mine:Kept")
        return 0

    together(2, job)
    run = cwd / "run"
    assert shown(run) == expected(run)
    assert kept(run)[1:-1] == lines(run)
    assert len(list((run / "tensorboard").iterdir())) == 1


# --- examples: each through a writer's own library, in two sessions of which the second repeats ---

RECORDS = [
    {"kind": kind, "iteration": i, "loss": 1 / i, "lr": 0.5} | more
    for i in range(1, 7)
    for kind, more in [("step", {}), ("val", {"accuracy": i / 8})]
    if kind == "step" or i % 3 == 0
]
SESSIONS = """
import json, sys
from pathlib import Path
from luthier.run.folder import RunFolder
from luthier.run.writers import Writers, opened
folder, records = RunFolder(Path(sys.argv[2])), json.loads(sys.argv[3])
for first, last in (0, 6), (4, len(records)):  # killed after a checkpoint with four lines
    folder.metrics.write_text("".join(json.dumps(r) + "\\n" for r in records[:first]))
    at_work = Writers(opened(sys.argv[1]), folder, {"epochs": 2}, lambda text: sys.exit(text))
    for record in records[first:last]:
        at_work.write(record)
    at_work.close()
"""
MLFLOW = """
import mlflow
(run,) = mlflow.search_runs(output_format="list")
of = mlflow.MlflowClient().get_metric_history
found = {n: [(m.step, m.value) for m in of(run.info.run_id, n)] for n in run.data.metrics}
assert run.data.params == {"epochs": "2"}
"""
WANDB = """
import struct
from wandb.proto.wandb_internal_pb2 import Record

def stored(data):  # in LevelDB's log format, behind a header of 7 bytes
    at, whole = 7, b""
    while at < len(data):
        if 32768 - at % 32768 < 7:  # what is left of a block is padding
            at += 32768 - at % 32768
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a whole one, or the last of its parts
            yield Record.FromString(whole)
            whole = b""

found, ids = {}, set()
for file in sorted(folder.path.glob("wandb/offline-run-*/*.wandb")):
    for record in stored(file.read_bytes()):
        ids |= {record.run.run_id} - {""}
        items = record.history.item
        row = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
        for name in row.keys() - {"_step", "_runtime", "_timestamp"}:
            found.setdefault(name, {})[row["_step"]] = row[name]  # as W&B does, by the step
assert len(ids) == 1
found = {name: sorted(values.items()) for name, values in found.items()}
"""
TRACKIO = """
from trackio.sqlite_storage import SQLiteStorage
found = {}
for row in SQLiteStorage.get_logs("luthier", str(folder.path)):
    for name in row.keys() - {"step", "timestamp"}:
        found.setdefault(name, []).append((row["step"], row[name]))
"""


@pytest.mark.parametrize(
    ("package", "reader"), [("mlflow", MLFLOW), ("wandb", WANDB), ("trackio", TRACKIO)]
)
def test_an_example_hands_every_record_over_once(tmp_path: Path, package: str, reader: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: pip install {package}")
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": (tmp_path / "mlflow").as_uri(),
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "WANDB_MODE": "offline",
        "TRACKIO_DIR": str(tmp_path / "trackio"),
    }
    (tmp_path / "run").mkdir()
    script = SESSIONS + reader + "print('FOUND' + json.dumps(found))"
    words = [f"examples.log_{package}:Writer", str(tmp_path / "run"), json.dumps(RECORDS)]
    done = subprocess.run(
        [sys.executable, "-c", script, *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE * 3,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.rpartition("FOUND")[2])
    wanted: dict[str, list[list[float]]] = {}
    for record in RECORDS:
        for name in ("loss", "accuracy", "lr"):
            if name in record:
                values = wanted.setdefault(f"{name}/{record['kind']}", [])
                values.append([record["iteration"], record[name]])
    assert found == wanted


def test_the_page_shows_the_examples_as_they_are() -> None:
    page = (ROOT / "docs" / "log.md").read_text(encoding="utf-8")
    for example in sorted((ROOT / "examples").glob("log_*.py")):
        text = example.read_text(encoding="utf-8")
        assert len(text.splitlines()) < 30
        assert text in page, f"docs/log.md has not {example.name} as it stands"


def test_where_metrics_go_is_no_change_of_the_run() -> None:
    then = values(resolve(Recipe()))
    assert changed_recipe(then, then | {"log": "tensorboard"}) == []
    assert changed_recipe(then, then | {"lr": 0.5}) != []

"""A model cut among processes: the steps of one, exact resumption on any number, small pieces."""

from __future__ import annotations

import contextlib
import gc
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

# A forked process would import these for itself, which takes seconds.
import torch.distributed.fsdp
import torch.distributed.tensor
from safetensors.torch import load_file
from torch import nn

import luthier
from conftest import LENET
from luthier import checkpoint
from luthier.checkpoint import Checkpoint, layout
from luthier.distributed import joined, pieces
from luthier.errors import (
    DoesNotFitError,
    InterruptedRunError,
    LuthierError,
    ModelError,
    RecipeError,
)
from luthier.report import Console
from luthier.run.session import Session
from luthier.training.sharded import _check, units_of
from ranks import together
from test_distributed import lines, listening_console, run
from test_exactness import StopAt, bits, differences

SMALL: dict[str, Any] = {"model": LENET, "image_size": 32, "batch_size": 5, "workers": 0}
SMALL |= {"epochs": 2, "weights": "none", "precision": "fp32", "save_every": "1 steps"}

PROC = pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="the threads are read from /proc"
)

# What gives the same steps in one process; those of the others are compared with DDP's.
ALONE: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulation, clipping, adamw": {
        "accumulate": 2,
        "clip_norm": 0.5,
        "optimizer": "adamw",
        "ema": 0.9,
    },
    "frozen": {"strategy": "frozen", "clip_norm": 0.5},
    "gradual, decay to the start": {
        "strategy": "gradual",
        "unfreeze_epochs": 1,
        "weight_decay": 0.1,
        "decay_to": "start",
    },
}
TOGETHER: dict[str, dict[str, Any]] = {
    "batch normalisation, lp-ft, average": {
        "model": "trial_models:Normed",
        "strategy": "lp-ft",
        "ema": 0.9,
    },
    "an unused part, mixup": {
        "model": "trial_models:PartlyUsed",
        "head_module": "head",
        "mixup": 0.3,
    },
}


@pytest.fixture(scope="module")
def start(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A model file of each architecture that a variant starts from."""
    out, found = tmp_path_factory.mktemp("start"), {}
    for number, model in enumerate((LENET, "trial_models:Normed")):
        knobs = SMALL | {"epochs": 1, "model": model}
        quiet = Console(quiet=True)
        found[model] = str(
            luthier.finetune(photos, out=out / f"{number}", console=quiet, **knobs).model
        )
    return found


def knobs_of(variant: dict[str, Any], start: dict[str, str]) -> dict[str, Any]:
    knobs = SMALL | variant
    return knobs | ({"weights": start[knobs["model"]]} if "strategy" in variant else {})


@pytest.fixture(autouse=True)
def cut_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small parts of a checkpoint be cut among those who write it, as large ones are."""
    monkeypatch.setattr(layout, "_LEAST", 1)


def last_of(run_folder: Path) -> Checkpoint:
    return checkpoint.read(max((run_folder / "checkpoints").iterdir()))


def assert_close(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for key, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[key], rtol=1e-3, atol=1e-5)


def assert_alike(ours: Path, theirs: Path) -> None:
    for kind in ("step", "train", "val"):
        a, b = lines(ours, kind), lines(theirs, kind)
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            for name in one.keys() - {"seconds", "loss"}:
                assert one[name] == other[name]
            assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
    ours_then, theirs_then = (last_of(folder) for folder in (ours, theirs))
    assert ours_then.parts.keys() == theirs_then.parts.keys()
    assert_close(load_file(ours / "model.safetensors"), load_file(theirs / "model.safetensors"))
    for part, saved in ours_then.parts.items():
        assert_close(saved.tensors, theirs_then.parts[part].tensors)


@pytest.mark.parametrize("variant", ALONE)
def test_steps_and_metrics_are_those_of_one_process(
    photos: Path, tmp_path: Path, start: dict[str, str], variant: str
) -> None:
    knobs = knobs_of(ALONE[variant], start)
    run(1, photos, tmp_path / "one", **knobs)
    for size in (2, 3):
        run(size, photos, tmp_path / f"{size}", **knobs, shard=True)
        assert_alike(tmp_path / f"{size}", tmp_path / "one")


@pytest.mark.parametrize("variant", TOGETHER)
def test_steps_and_metrics_are_those_of_copies(
    photos: Path, tmp_path: Path, start: dict[str, str], variant: str
) -> None:
    knobs = knobs_of(TOGETHER[variant], start)
    run(3, photos, tmp_path / "copies", **knobs)
    run(3, photos, tmp_path / "cut", **knobs, shard=True)
    assert_alike(tmp_path / "cut", tmp_path / "copies")


def test_bfloat16_comes_near_that_of_copies(photos: Path, tmp_path: Path) -> None:
    knobs = SMALL | {"model": "trial_models:Normed", "precision": "bf16"}
    run(2, photos, tmp_path / "copies", **knobs)
    run(2, photos, tmp_path / "cut", **knobs, shard=True)
    for kind in ("step", "val"):
        found = [[r["loss"] for r in lines(tmp_path / n, kind)] for n in ("copies", "cut")]
        assert found[0] == pytest.approx(found[1], rel=0.03)


def stopped(after: int, begin: Callable[[Console], object]) -> Callable[[int], int]:
    def job(_rank: int) -> int:
        # Only one of them is told to stop.
        console = StopAt(
            after if int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1 else 10**6
        )
        listening_console(console)
        with contextlib.suppress(InterruptedRunError):
            begin(console)
        return 0

    return job


@pytest.mark.parametrize(
    "variant",
    [
        "accumulation, clipping, adamw",
        "batch normalisation, lp-ft, average",
        "gradual, decay to the start",
    ],
)
def test_a_run_that_is_stopped_again_and_again_ends_with_the_same_bits(
    photos: Path, tmp_path: Path, start: dict[str, str], variant: str
) -> None:
    knobs = knobs_of((ALONE | TOGETHER)[variant], start) | {"shard": True}
    run(3, photos, tmp_path / "whole", **knobs)
    cut = tmp_path / "cut"
    together(3, stopped(3, lambda c: luthier.finetune(photos, out=cut, console=c, **knobs)))
    resumes = 0
    while not (cut / "summary.json").exists():
        together(3, stopped(3, lambda c: luthier.resume(cut, console=c)))
        resumes += 1
    assert resumes > 1
    assert differences(bits(tmp_path / "whole"), bits(cut)) == []


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_run_continues_on_any_number_of_processes_cut_or_not(
    photos: Path, tmp_path: Path, optimizer: str
) -> None:
    knobs = SMALL | {"optimizer": optimizer, "ema": 0.9}
    run(1, photos, tmp_path / "whole", **knobs)
    cut = tmp_path / "cut"
    together(
        3, stopped(2, lambda c: luthier.finetune(photos, out=cut, console=c, **knobs, shard=True))
    )
    together(2, stopped(2, lambda c: luthier.resume(cut, console=c)))
    together(1, stopped(2, lambda c: luthier.resume(cut, console=c)))
    recipe = cut / "recipe.toml"
    recipe.write_text(recipe.read_text(encoding="utf-8").replace("shard = true", "shard = false"))
    together(2, stopped(2, lambda c: luthier.resume(cut, console=c)))
    recipe.write_text(recipe.read_text(encoding="utf-8").replace("shard = false", "shard = true"))
    together(2, lambda _rank: luthier.resume(cut, console=Console(quiet=True)) and 0)
    assert_alike(cut, tmp_path / "whole")


def test_no_process_holds_the_whole(photos: Path, tmp_path: Path) -> None:
    def job(_rank: int) -> int:
        told: dict[str, int] = {}
        run_on = Session.run

        def watched(session: Session, stop: Any) -> None:
            run_on(session, stop)
            model, optimizer = session.job.model, session.learner.optimizer
            tensors = [*model.parameters()]
            tensors += [t for kept in optimizer.state.values() for t in kept.values() if t.ndim]
            told["all"] = sum(t.numel() for t in tensors)
            held = [pieces.mine(t).untyped_storage() for t in tensors]
            told["held"] = sum(s.nbytes() for s in {s.data_ptr(): s for s in held}.values()) // 4

        Session.run = watched  # type: ignore[method-assign]
        luthier.finetune(
            photos, out=tmp_path / "run", **(SMALL | knobs), console=Console(quiet=True)
        )
        print(json.dumps(told))
        return 0

    knobs: dict[str, Any] = {"shard": True, "optimizer": "adamw", "epochs": 1}
    for out in map(json.loads, together(3, job)):
        assert out["all"] > 180_000
        assert out["held"] < out["all"] / 3 * 1.02


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_frozen_has_no_gradients_and_exchanges_none(
    photos: Path, tmp_path: Path, start: dict[str, str], precision: str
) -> None:
    def job(_rank: int) -> int:
        exchanged: list[int] = []
        held: set[str] = set()
        reduce, run_on = torch.distributed.reduce_scatter_single, Session.run

        def counted(**how: Any) -> Any:
            exchanged.append(how["input"].numel())
            return reduce(**how)

        def watched(session: Session, stop: Any) -> None:
            def look(*_facts: object) -> None:
                named = session.job.model.named_parameters()
                held.update(name for name, p in named if p.grad is not None)

            session.learner.optimizer.register_step_pre_hook(look)
            run_on(session, stop)

        torch.distributed.reduce_scatter_single = counted
        Session.run = watched  # type: ignore[method-assign]
        quiet = Console(quiet=True)
        luthier.finetune(photos, out=tmp_path / "run", console=quiet, **knobs, shard=True)
        print(json.dumps([sorted(held), exchanged]))
        return 0

    knobs = SMALL | {"weights": start[LENET], "strategy": "frozen", "precision": precision}
    for out in together(2, job):
        held, exchanged = json.loads(out)
        assert held == ["fc3.bias", "fc3.weight"]
        assert set(exchanged) == {2 * 84 + 2}  # the elements of the head


@PROC
def test_a_checkpoint_that_does_not_fit_leaves_no_thread_of_the_group(
    photos: Path, tmp_path: Path, start: dict[str, str]
) -> None:
    out, knobs = tmp_path / "run", SMALL | {"weights": start[LENET], "weight_decay": 0.1}
    together(
        2, stopped(2, lambda c: luthier.finetune(photos, out=out, console=c, **knobs, shard=True))
    )
    recipe = out / "recipe.toml"
    text = recipe.read_text(encoding="utf-8")
    recipe.write_text(text.replace('decay_to = "zero"', 'decay_to = "start"'), encoding="utf-8")

    def job(_rank: int) -> int:
        with pytest.raises(DoesNotFitError, match="does not hold where"):
            luthier.resume(out, console=Console(quiet=True))
        gc.collect()
        assert threads_of_gloo() == []
        return 0

    together(2, job)


def test_rows_come_together_as_they_were() -> None:
    def job(rank: int) -> None:
        from torch.distributed.device_mesh import init_device_mesh  # noqa: PLC0415
        from torch.distributed.tensor import Shard, distribute_tensor  # noqa: PLC0415

        with joined() as world:
            mesh = init_device_mesh("cpu", (world.size,))
            for rows in (1, 2, 3, 4, 5, 7):
                given = torch.arange(rows * 6.0).reshape(rows, 3, 2)
                cut = distribute_tensor(given, mesh, [Shard(0)])
                assert pieces.is_cut(cut)
                assert torch.equal(pieces.whole(cut), given)
                for owner in range(world.size):
                    place = torch.zeros_like(given) if rank == owner else None
                    pieces.collect(cut, place, owner)
                    assert place is None or torch.equal(place, given)
                    found = pieces.whole_at(cut, owner)
                    assert (found is None) == (place is None)
                    assert found is None or torch.equal(found, given)
                pieces.put(cut, given + 1)
                assert torch.equal(cut.full_tensor(), given + 1)
                assert torch.equal(pieces.cut_like(cut, given).full_tensor(), given)

    for size in (2, 3):
        together(size, job)


def threads_of_gloo() -> list[str]:
    tasks = Path("/proc/self/task").iterdir()
    names = [(task / "comm").read_text(encoding="utf-8") for task in tasks]
    return [name for name in names if "gloo" in name]


@PROC
@pytest.mark.parametrize("shard", [False, True])
def test_no_thread_of_the_group_outlives_it(photos: Path, tmp_path: Path, shard: bool) -> None:
    # One that did would need Python's lock, and might while the interpreter ends: an abort.
    def job(_rank: int) -> int:
        luthier.finetune(photos, out=tmp_path / "run", **SMALL | {"epochs": 1}, shard=shard)
        gc.collect()
        assert threads_of_gloo() == []
        return 0

    together(2, job)


# --- what is put together at once -----------------------------------------------------------------


class Twice(nn.Module):
    """Has a block that is computed twice, and one whose parameters are used without it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 16)
        self.again = nn.Linear(16, 16)
        self.held = nn.Linear(16, 16)
        self.last = nn.Sequential(nn.Linear(16, 200), nn.ReLU(), nn.Linear(200, 200))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found = self.first(images.mean((2, 3)))
        found = self.again(self.again(found)) @ self.held.weight
        return self.last(found)  # type: ignore[no-any-return]


def test_units_are_what_is_called_once_and_neither_small_nor_large() -> None:
    model = Twice()
    units = units_of(model, ["first", "again", "held", "last"], (3, 8, 8))
    assert units == [model.last[0], model.last[2]]


# --- what is refused ------------------------------------------------------------------------------


def test_what_cannot_be_cut_is_refused() -> None:
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    with pytest.raises(ModelError, match=r"1\.weight and 0\.weight are one parameter"):
        _check(tied)
    number = nn.Sequential(nn.Linear(3, 3))
    number.register_parameter("scale", nn.Parameter(torch.tensor(1.0)))
    with pytest.raises(ModelError, match="scale is a single number"):
        _check(number)


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({}, "no effect with one process"),
        ({"virtual_shards": 2}, "no sense with --virtual-shards"),
        ({"compile": True}, "does not work with --compile"),
        ({"strategy": "probe"}, "no effect with --strategy probe"),
    ],
)
def test_what_does_not_go_with_it_is_refused(
    photos: Path, tmp_path: Path, knobs: dict[str, Any], words: str
) -> None:
    given: dict[str, Any] = {"model": LENET, "image_size": 32, "shard": True}
    with pytest.raises(RecipeError, match=words):
        luthier.finetune(photos, out=tmp_path / "run", **(given | knobs))
    assert not (tmp_path / "run").exists()


def test_a_model_that_each_process_draws_for_itself_is_refused(
    photos: Path, tmp_path: Path
) -> None:
    knobs = SMALL | {"model": "trial_models:Drawn"}

    def job(_rank: int) -> int:
        with pytest.raises(ModelError, match="starts with other values in rank 1 than in rank 0"):
            luthier.finetune(photos, out=tmp_path / "run", **knobs, shard=True)
        return 0

    together(2, job)


def test_a_job_that_is_refused_ends_in_all_processes(photos: Path, tmp_path: Path) -> None:
    def job(_rank: int) -> int:
        with pytest.raises(LuthierError, match="single number"):
            luthier.finetune(
                photos,
                out=tmp_path / "run",
                **(SMALL | {"model": "trial_models:Scaled"}),
                shard=True,
            )
        return 0

    together(2, job)

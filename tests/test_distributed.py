"""Several processes: the same batches and metrics as one, exact resumption, and clean ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn
from torch.distributed import HashStore
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

import luthier
from conftest import LENET
from luthier.distributed import Share, joined
from luthier.distributed.meeting import meet
from luthier.errors import (
    DataError,
    InterruptedRunError,
    LuthierError,
    PeerError,
    RecipeError,
    RunFolderError,
)
from luthier.report import Console
from luthier.run import starting
from luthier.run.folder import RunFolder, held
from luthier.training import Precision, evaluate
from processes import Forked
from ranks import ended, started, together
from test_exactness import StopAt, bits, differences

SMALL: dict[str, Any] = {"model": LENET, "image_size": 32, "batch_size": 5, "workers": 0}
SMALL |= {"epochs": 2, "weights": "none", "precision": "fp32", "save_every": "1 steps"}

# --- what each has ------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 40), max_size=8), st.integers(1, 4), st.integers(1, 5))
def test_pieces_are_the_same_for_any_number_of_processes(
    sizes: list[int], each: int, size: int
) -> None:
    batches = [list(range(n)) for n in sizes]
    pieces = each * size
    alone = [Share(piece, pieces).of(batches) for piece in range(pieces)]
    for rank in range(size):
        mine = Share(rank, size, pieces=pieces).of(batches)
        together = alone[rank * each : (rank + 1) * each]
        for number, part in enumerate(mine):
            assert part == [image for piece in together for image in piece[number]]


@given(st.lists(st.integers(0, 40), max_size=8), st.integers(1, 9))
def test_every_image_is_in_one_process_and_shares_are_as_equal_as_can_be(
    sizes: list[int], size: int
) -> None:
    batches = [[(batch, image) for image in range(n)] for batch, n in enumerate(sizes)]
    parts = [Share(rank, size).of(batches) for rank in range(size)]
    for number, batch in enumerate(batches):
        pieces = [part[number] for part in parts]
        assert [image for piece in pieces for image in piece] == batch
        counts = [len(piece) for piece in pieces]
        assert counts == sorted(counts, reverse=True)
        assert max(counts) - min(counts) <= 1
    whole = [Share(rank, size, whole=True).of(batches) for rank in range(size)]
    turns = [part[turn] for turn in range(len(batches)) for part in whole if turn < len(part)]
    assert turns == batches


# --- what they tell each other ------------------------------------------------------------------


def test_numbers_and_words_are_exchanged() -> None:
    def job(rank: int) -> None:
        with joined() as world:
            told = {
                "gather": world.gather([rank, 0.1 * rank]),
                "turns": world.in_turn([[rank, turn] for turn in range(4 - (rank > 1))]),
                "none": world.in_turn([]),
                "batches": [
                    rows.tolist()
                    for rows in world.batches_in_turn(
                        [
                            torch.full((1 + (rank + t) % 2, 2), rank + 0.1)
                            for t in range(2 - (rank > 1))
                        ]
                    )
                ],
                "no batches": world.batches_in_turn([]),
                "shared": world.share({"ü": [1, None]} if rank == 0 else None),
                "asked": world.asked,
            }
            world.listen(lambda: rank == 2)
            world.gather([])
            print(json.dumps(told | {"then": world.asked}))

    found = [json.loads(out) for out in together(3, job)]
    assert found[0] == found[1] == found[2]
    assert found[0] == {
        "gather": [[0, 0], [1, 0.1], [2, 0.2]],
        "turns": [[r, t] for t in range(4) for r in range(3) if t < 4 - (r > 1)],
        "none": [],
        "batches": [
            torch.full((1 + (r + t) % 2, 2), r + 0.1).tolist()
            for t in range(2)
            for r in range(3 - t)
        ],
        "no batches": [],
        "shared": {"ü": [1, None]},
        "asked": False,
        "then": True,
    }


def test_a_failure_in_one_is_known_to_all() -> None:
    def job(rank: int) -> int:
        with joined() as world:
            try:
                with world.together():
                    if rank == 1:
                        raise ValueError("the cat is out")
            except (ValueError, PeerError) as error:
                print(f"{type(error).__name__}: {error}")
        return 0

    assert together(3, job) == [
        "PeerError: rank 1 has failed\n",
        "ValueError: the cat is out\n",
        "PeerError: rank 1 has failed\n",
    ]


def test_one_that_is_killed_is_missed() -> None:
    def job(rank: int) -> int:
        with contextlib.suppress(PeerError), joined() as world:
            world.gather([rank])
            if rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            world.gather([rank])
            print("nobody is missed")
        return 0

    assert [(status, out) for status, out, _ in ended(started(3, job))] == [
        (0, ""),
        (-signal.SIGKILL, ""),
        (0, ""),
    ]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_each_start_meets_itself_whatever_earlier_ones_have_left(
    sizes: list[int], random: Any
) -> None:
    store = HashStore()
    seen = set()
    for size in sizes:
        found: dict[int, str] = {}

        def come(rank: int, size: int = size, found: dict[int, str] = found) -> None:
            found[rank] = meet(store, rank, size, 20)

        threads = [threading.Thread(target=come, args=(rank,)) for rank in range(size)]
        for thread in random.sample(threads, size):
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == size
        (session,) = set(found.values())
        assert session not in seen
        seen.add(session)


def test_those_who_do_not_come_are_named() -> None:
    with pytest.raises(PeerError, match="have not come"):
        meet(HashStore(), 0, 2, 0.05)
    with pytest.raises(PeerError, match="have not come"):
        meet(HashStore(), 1, 2, 0.05)


# --- a whole job --------------------------------------------------------------------------------


def run(size: int, photos: Path, out: Path, **knobs: Any) -> None:
    def job(_rank: int) -> int:
        luthier.finetune(photos, out=out, **(SMALL | knobs))
        return 0

    together(size, job)


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    return [r for r in map(json.loads, text.splitlines()) if r["kind"] == kind]


@pytest.fixture(scope="module")
def alone(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "run"
    run(1, photos, out)
    return out


@pytest.mark.parametrize("size", [2, 3, 4])
def test_steps_and_metrics_are_those_of_one_process(
    photos: Path, tmp_path: Path, alone: Path, size: int
) -> None:
    run(size, photos, tmp_path / "run")
    for kind in ("step", "train", "val"):
        one, many = lines(alone, kind), lines(tmp_path / "run", kind)
        assert len(one) == len(many)
        for a, b in zip(one, many, strict=True):
            assert a.keys() == b.keys()
            for name in a.keys() - {"seconds", "loss"}:
                assert a[name] == b[name]
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
    one, many = (load_file(p / "model.safetensors") for p in (alone, tmp_path / "run"))
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, many[name], rtol=1e-4, atol=1e-6)
    assert [p.name for p in (tmp_path / "run").iterdir() if p.name.startswith(".tmp")] == []


def assert_steps_alike(one: Path, many: Path, *, alike: bool = True) -> None:
    ours, theirs = ([r["loss"] for r in lines(folder, "step")] for folder in (one, many))
    assert (ours == pytest.approx(theirs, rel=1e-4)) is alike


@pytest.mark.parametrize("shard", [False, True])
def test_with_statistics_of_all_the_steps_are_those_of_one_process(
    photos: Path, tmp_path: Path, shard: bool
) -> None:
    # One of three has nothing of the last batch, of two images.
    knobs = {"model": "trial_models:Normed", "batch_size": 13, "lr": 0.05}
    run(1, photos, tmp_path / "one", **knobs)
    run(3, photos, tmp_path / "own", **knobs, shard=shard)
    run(3, photos, tmp_path / "all", **knobs, shard=shard, sync_batchnorm=True)
    assert_steps_alike(tmp_path / "one", tmp_path / "own", alike=False)
    assert_steps_alike(tmp_path / "one", tmp_path / "all")
    one, many = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "all"))
    assert one.keys() == many.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, many[name], rtol=1e-3, atol=1e-5)


class Counted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.linear(inputs)
        return found


def test_validation_among_several_has_the_bits_of_one() -> None:
    torch.manual_seed(3)
    model = Counted()
    batches = [(torch.randn(n, 3), torch.randint(0, 4, (n,))) for n in (7, 7, 7, 7, 3)]
    alone = evaluate(model, batches, Precision("cpu"))
    with torch.no_grad():
        right = torch.cat([model(inputs) for inputs, _ in batches])

    def job(rank: int) -> None:
        with joined() as world:
            mine = batches[rank :: world.size]
            scores: list[torch.Tensor] = []
            tally = evaluate(model, mine, Precision("cpu"), world=world, take=scores.append)
            same = torch.equal(torch.cat(world.batches_in_turn(scores)), right)
            print(json.dumps(vars(tally) | {"same scores": same}))

    for size in (2, 3, 6):
        for out in together(size, job):
            assert json.loads(out) == vars(alone) | {"same scores": True}


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulation, average": {"accumulate": 2, "ema": 0.9},
    "frozen": {"strategy": "frozen"},
    "gradual": {"strategy": "gradual", "unfreeze_epochs": 1},
    "batch normalisation, adamw": {"model": "trial_models:Normed", "optimizer": "adamw"},
    "dropout": {"model": "trial_models:Dropped"},
    "batch statistics of all": {"model": "trial_models:Dropped", "sync_batchnorm": True},
    "an unused part, mixup": {
        "model": "trial_models:PartlyUsed",
        "head_module": "head",
        "mixup": 0.3,
    },
}


@pytest.fixture(scope="module")
def start(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("start") / "run"
    knobs = SMALL | {"epochs": 1}
    return luthier.finetune(photos, out=out, console=Console(quiet=True), **knobs).model


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_of_three_that_is_stopped_again_and_again_ends_with_the_same_bits(
    photos: Path, tmp_path: Path, start: Path, variant: str
) -> None:
    knobs = dict(VARIANTS[variant])
    if "strategy" in knobs:
        knobs["weights"] = str(start)
    run(3, photos, tmp_path / "whole", **knobs)

    def first(_rank: int) -> int:
        return stopped(lambda c: luthier.finetune(photos, out=tmp_path / "cut", console=c, **job))

    def again(_rank: int) -> int:
        return stopped(lambda c: luthier.resume(tmp_path / "cut", console=c))

    def stopped(begin: Any) -> int:
        # Only one of them is told to stop: all save, and end, at the same step.
        console = StopAt(3 if os.environ["RANK"] == "1" else 10**6)
        listening_console(console)
        with contextlib.suppress(InterruptedRunError):
            begin(console)
        return 0

    job = SMALL | knobs
    together(3, first)
    resumes = 0
    while not (tmp_path / "cut" / "summary.json").exists():
        together(3, again)
        resumes += 1
    assert resumes > 1
    assert differences(bits(tmp_path / "whole"), bits(tmp_path / "cut")) == []


def listening_console(console: StopAt) -> None:
    """Let the console of this process have the request that its run listens to."""
    from luthier.run import finetune  # noqa: PLC0415 - the name is a function's elsewhere

    listening = finetune.listening

    @contextlib.contextmanager
    def watched() -> Any:
        with listening() as request:
            console.request = request
            yield request

    finetune.listening = watched


SHARDED: dict[str, dict[str, Any]] = {
    "plain": {},
    "batch normalisation, accumulation, clipping": {
        "model": "trial_models:Normed",
        "accumulate": 2,
        "clip_norm": 0.5,
        "optimizer": "adamw",
    },
    "an unused part, mixup, average": {
        "model": "trial_models:PartlyUsed",
        "head_module": "head",
        "mixup": 0.3,
        "ema": 0.9,
    },
    "gradual": {"strategy": "gradual", "unfreeze_epochs": 1},
}


@pytest.mark.parametrize("variant", SHARDED)
def test_virtual_shards_give_the_same_bits_for_any_number_of_processes(
    photos: Path, tmp_path: Path, start: Path, variant: str
) -> None:
    knobs = SHARDED[variant] | {"virtual_shards": 6, "batch_size": 8}
    if "strategy" in knobs:
        knobs["weights"] = str(start)
    for size in (1, 2, 3):
        run(size, photos, tmp_path / str(size), **knobs)
    one = bits(tmp_path / "1")
    assert differences(one, bits(tmp_path / "2")) == []
    assert differences(one, bits(tmp_path / "3")) == []


def test_with_virtual_shards_a_run_continues_with_any_number_of_processes(
    photos: Path, tmp_path: Path
) -> None:
    knobs = SMALL | {"model": "trial_models:Normed", "virtual_shards": 4}
    run(1, photos, tmp_path / "whole", **knobs)

    def stopped(begin: Any) -> int:
        console = StopAt(4)
        listening_console(console)
        with contextlib.suppress(InterruptedRunError):
            begin(console)
        return 0

    cut = tmp_path / "cut"
    together(2, lambda _: stopped(lambda c: luthier.finetune(photos, out=cut, console=c, **knobs)))
    together(4, lambda _: stopped(lambda c: luthier.resume(cut, console=c)))
    while not (cut / "summary.json").exists():
        together(1, lambda _: stopped(lambda c: luthier.resume(cut, console=c)))
    assert differences(bits(tmp_path / "whole"), bits(cut)) == []
    said = (cut / "log.txt").read_text(encoding="utf-8")
    assert "not the same bits" not in said


def test_shards_that_cannot_be_shared_out_are_refused(photos: Path, tmp_path: Path) -> None:
    def job(_rank: int) -> int:
        with pytest.raises(LuthierError, match=r"cannot be given to 2 processes|has failed"):
            luthier.finetune(photos, out=tmp_path / "run", **SMALL, virtual_shards=3)
        return 0

    together(2, job)
    assert not (tmp_path / "run").exists()


def test_a_start_waits_until_an_earlier_one_of_its_job_has_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "run")

    def earlier() -> None:
        with held(folder):
            print("here", flush=True)
            threading.Event().wait(30)

    process = Forked(earlier)
    assert process.stdout.readline() == "here\n"
    with pytest.raises(RunFolderError, match="in use"), contextlib.ExitStack() as ends:
        starting._hold(folder, ends)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    folder.job.write_text("job")
    with contextlib.ExitStack() as ends:
        threading.Timer(0.5, os.killpg, (process.pid, signal.SIGKILL)).start()
        starting._hold(folder, ends)
        assert process.wait() == -signal.SIGKILL
    process.communicate()
    folder.recipe.write_text("")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "another")
    with contextlib.ExitStack() as ends:
        starting._hold(folder, ends)
    assert folder.job.read_text() == "another"  # whose it is now


# --- a loop of one's own ------------------------------------------------------------------------


class Points(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Random points of three kinds, with noise that is drawn anew in each epoch."""

    def __len__(self) -> int:
        return 23

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        label = index % 3
        return torch.randn(4) * 0.1 + label, torch.tensor(label)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.first, self.norm, self.last = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.idle = nn.Linear(2, 2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.last(torch.relu(self.norm(self.first(inputs))))
        return found


def loop(folder: Path, *, parallel: bool = False, stop_at: int = 10**6, norm: bool = True) -> None:
    """The user's script: nothing in it knows of other processes."""
    model = Small()
    if not norm:  # its statistics are those of each process's part
        model.norm = nn.Identity()  # type: ignore[assignment]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    wrapped = model
    if parallel:
        wrapped = DistributedDataParallel(model, find_unused_parameters=True)  # type: ignore[assignment]
    steps = 0
    with luthier.Run(folder, seed=2, model=wrapped, optimizer=optimizer) as run:
        for _epoch in run.epochs(3):
            for inputs, labels in run.batches(Points(), batch_size=8, shuffle=True):
                loss = nn.functional.cross_entropy(wrapped(inputs), labels)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                run.log(loss=loss.item())
                steps += 1
                if steps == stop_at and run._world.rank == 1:
                    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("size", [2, 3, 5])
def test_a_script_makes_the_steps_of_one_process(tmp_path: Path, size: int, parallel: bool) -> None:
    def job(_rank: int) -> None:
        with joined():
            loop(tmp_path / "many", parallel=parallel, norm=False)

    with contextlib.redirect_stderr(None):
        together(1, lambda _rank: loop(tmp_path / "one", norm=False))
    together(size, job)
    one, many = (sorted((tmp_path / n / "checkpoints").iterdir())[-1] for n in ("one", "many"))
    assert one.name == many.name
    ours = load_file(many / "model.safetensors")
    for name, tensor in load_file(one / "model.safetensors").items():
        torch.testing.assert_close(tensor, ours[name], rtol=1e-4, atol=1e-6)
    lines = (tmp_path / "many" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 9  # the first process's


def test_a_script_of_three_continues_to_the_same_bits(tmp_path: Path) -> None:
    assert [s for s, _, _ in ended(started(3, lambda _: loop(tmp_path / "whole")))] == [0] * 3
    cut = ended(started(3, lambda _: loop(tmp_path / "cut", stop_at=5)))
    assert [status for status, _, _ in cut] == [130] * 3, cut
    assert "stopped and saved at step 5" in cut[0][2]
    assert cut[1][2] == cut[2][2] == ""
    together(3, lambda _: loop(tmp_path / "cut"))
    last = [sorted((tmp_path / n / "checkpoints").iterdir())[-1] for n in ("whole", "cut")]
    for part in ("model", "optimizer"):
        whole, ours = (load_file(folder / f"{part}.safetensors") for folder in last)
        assert whole.keys() == ours.keys()
        assert all(torch.equal(tensor, ours[name]) for name, tensor in whole.items())


def test_data_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    sampler: Any = DistributedSampler(Points(), 2, 0)

    def job(_rank: int) -> int:
        run = luthier.Run(tmp_path / "run", model=nn.Linear(2, 2))
        for source, words in (
            (DataLoader(Points(), 4, sampler=sampler), "DistributedSampler gives each process"),
            (DataLoader(Points(), None), "single samples cannot be shared by 2"),
        ):
            epochs = run.epochs(1)
            next(epochs)
            with pytest.raises(DataError, match=words):
                next(run.batches(source))
            epochs.close()
        run.close()
        return 0

    together(2, job)


def test_a_scaler_that_would_decide_for_each_is_refused(tmp_path: Path) -> None:
    def job(_rank: int) -> int:
        model = nn.Linear(2, 2)
        with pytest.raises(RecipeError, match="in one process and not in another of 2"):
            luthier.Run(tmp_path / "run", model=model, scaler=torch.amp.GradScaler("cpu"))
        return 0

    together(2, job)

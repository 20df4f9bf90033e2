"""``luthier.Run``: a loop that is stopped anywhere and started again ends with the same bits."""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    TensorDataset,
    WeightedRandomSampler,
)

from luthier import Run, checkpoint, load_optimizer, verify
from luthier.checkpoint import Costs, Saver, State, snapshot
from luthier.checkpoint.snapshot import Snapshot
from luthier.errors import (
    CannotWriteError,
    DataError,
    DoesNotFitError,
    LuthierError,
    RecipeError,
    RunFolderError,
    UnkeyedError,
    UnsupportedStateError,
)
from luthier.files import disk
from luthier.recipe import Interval
from luthier.report import Console
from luthier.run import keeper
from luthier.run.folder import Metrics, RunFolder, held
from luthier.run.keeper import Cadence
from luthier.values import Position
from processes import Forked

QUIET = Console(quiet=True)
At = Callable[[int], None]  # is told of every step, in its body
BATCHES, EPOCHS = 4, 3


class Unflushed(disk.Disk):
    """A quick one: no test in this process lets the power fail."""

    def sync(self, handle: int) -> None:
        pass

    def sync_file(self, path: Path) -> None:
        pass

    def sync_directory(self, path: Path) -> None:
        pass


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    with disk.using(Unflushed()):
        yield


class Drawn(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Every sample draws from all three global generators, and from one of its own."""

    def __init__(self, count: int = 4 * BATCHES - 1) -> None:
        self.count, self.own = count, np.random.default_rng(5)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        noise = random.random() + np.random.rand() + self.own.random()
        return torch.randn(6) + index % 2 + noise, torch.tensor(index % 2)


def small_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2)
    )


def loss_of(model: nn.Module, batch: Any) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any) -> torch.Tensor:
    optimizer.zero_grad()
    loss = loss_of(model, batch)
    loss.backward()
    optimizer.step()
    return loss


def nothing(_step: int) -> None: ...


def stop_at(*steps: int) -> At:
    """Ask the run to stop in the body of these steps, as a scheduler does."""

    def act(step: int) -> None:
        if step in steps:
            signal.raise_signal(signal.SIGTERM)

    return act


class BodyFailedError(Exception):
    pass


def fail_at(*steps: int) -> At:
    def act(step: int) -> None:
        if step in steps:
            raise BodyFailedError

    return act


def bits(folder: Path) -> dict[str, bytes]:
    """All that a run leaves, but the manifest: it has the facts that may differ."""
    newest = max((folder / "checkpoints").glob("step-*"))
    files = [folder / "metrics.jsonl", *newest.iterdir()]
    return {f"{newest.name}/{p.name}": p.read_bytes() for p in files if p.name != "manifest.json"}


# --- data, as a loop may have it --------------------------------------------------------------


def of_dataset(run: Run, workers: int) -> Iterator[Any]:
    return run.batches(Drawn(), 4, shuffle=True, num_workers=workers)


def of_loader(run: Run, workers: int) -> Iterator[Any]:
    return run.batches(DataLoader(Drawn(), 4, shuffle=True, num_workers=workers))


def of_weighted_loader(run: Run, workers: int) -> Iterator[Any]:
    weights = [1.0 + index % 3 for index in range(15)]
    sampler = WeightedRandomSampler(weights, 4 * BATCHES - 1)
    return run.batches(DataLoader(Drawn(), 4, sampler=sampler, num_workers=workers))


class Persistent:
    """One loader for all epochs; its workers live as long."""

    def __init__(self) -> None:
        self.loader: DataLoader[Any] | None = None

    def __call__(self, run: Run, workers: int) -> Iterator[Any]:
        if self.loader is None:
            more = {"num_workers": workers, "persistent_workers": workers > 0}
            self.loader = DataLoader(Drawn(), 4, shuffle=True, **more)
        return run.batches(self.loader)


SOURCES: dict[str, Callable[[], Callable[[Run, int], Iterator[Any]]]] = {
    "dataset": lambda: of_dataset,
    "loader": lambda: of_loader,
    "weighted": lambda: of_weighted_loader,
    "persistent": Persistent,
}


def classify(
    folder: Path, at: At = nothing, source: str = "dataset", workers: int = 0, **more: Any
) -> None:
    model = small_net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=BATCHES * EPOCHS)
    objects = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    batches = SOURCES[source]()
    with Run(folder, seed=3, console=QUIET, **more, **objects) as run:
        for _ in run.epochs(EPOCHS):
            total = 0.0
            for batch in batches(run, workers):
                at(run.at.step)
                loss = learn(model, optimizer, batch)
                scheduler.step()
                run.log(loss=loss)
            with torch.no_grad():
                total = loss_of(model.eval(), next(iter(DataLoader(Drawn(), 8)))).item()
            model.train()
            run.log(val=total, lr=scheduler.get_last_lr())


# --- other loops ------------------------------------------------------------------------------

POINTS = TensorDataset(torch.linspace(-1, 1, 15 * 6).view(15, 6), torch.arange(15) % 2)


def gan(folder: Path, at: At = nothing, **more: Any) -> None:
    generator = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 6))
    critic = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))
    to_fool = torch.optim.Adam(generator.parameters(), lr=0.01)
    to_tell = torch.optim.RMSprop(critic.parameters(), lr=0.01)
    objects = {"generator": generator, "critic": critic, "to_fool": to_fool, "to_tell": to_tell}
    with Run(folder, console=QUIET, **more, **objects) as run:
        for _ in run.epochs(EPOCHS):
            for points, _labels in run.batches(POINTS, 4, shuffle=True):
                at(run.at.step)
                made = generator(torch.randn(len(points), 3))
                telling = (critic(made.detach()) - critic(points)).mean()
                to_tell.zero_grad()
                telling.backward()
                to_tell.step()
                if run.at.step % 2:  # the critic learns twice as often
                    to_fool.zero_grad()
                    (-critic(made).mean()).backward()
                    to_fool.step()
            run.log(telling=telling)


def accumulate(folder: Path, at: At = nothing, **more: Any) -> None:
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    with Run(folder, console=QUIET, **more, model=model, optimizer=optimizer) as run:
        for _ in run.epochs(EPOCHS):
            for batch in run.batches(Drawn(), 4, shuffle=True):
                at(run.at.step)
                loss_of(model, batch).backward()
                if run.at.step % 3 == 2:  # also across the ends of epochs
                    optimizer.step()
                    optimizer.zero_grad()


def scaled(folder: Path, at: At = nothing, **more: Any) -> None:
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    scaler = torch.amp.GradScaler("cpu", growth_interval=3)
    objects = {"model": model, "optimizer": optimizer, "scaler": scaler}
    with Run(folder, console=QUIET, **more, **objects) as run:
        for _ in run.epochs(EPOCHS):
            for batch in run.batches(Drawn(), 4):
                at(run.at.step)
                with torch.autocast("cpu", torch.bfloat16):
                    loss = loss_of(model, batch)
                if run.at.step == 5:
                    loss = loss * float("inf")  # a step that the scaler leaves out
                optimizer.zero_grad()
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
                run.log(scale=scaler.get_scale())


def averaged(folder: Path, at: At = nothing, **more: Any) -> None:
    model = small_net()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8), use_buffers=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with Run(folder, console=QUIET, **more, model=model, optimizer=optimizer) as run:
        run.track(average=average)
        for _ in run.epochs(EPOCHS):
            for batch in run.batches(Drawn(), 4):
                at(run.at.step)
                learn(model, optimizer, batch)
                average.update_parameters(model)


def contrast(folder: Path, at: At = nothing, **more: Any) -> None:
    """A second network that follows the first, moved before the forward, as in MoCo."""
    query, slow = nn.Linear(6, 4), nn.Linear(6, 4)
    optimizer = torch.optim.SGD(query.parameters(), lr=0.05)
    queue = torch.zeros(8, 4)
    objects = {"query": query, "slow": slow, "optimizer": optimizer, "queue": queue}
    with Run(folder, console=QUIET, **more, **objects) as run:
        for _ in run.epochs(EPOCHS):
            for points, _labels in run.batches(Drawn(), 4, shuffle=True):
                at(run.at.step)
                for behind, ahead in zip(slow.parameters(), query.parameters(), strict=True):
                    behind.data = behind.data * 0.7 + ahead.data * 0.3
                with torch.no_grad():
                    keys = slow(points)
                    queue.copy_(torch.cat([keys, queue])[: len(queue)])
                loss = (query(points) @ queue.T).logsumexp(1).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()


def plateau(folder: Path, at: At = nothing, **more: Any) -> None:
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.5)
    with Run(folder, console=QUIET, **more, model=model, optimizer=optimizer) as run:
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.3)
        run.track(scheduler=scheduler)
        for _ in run.epochs(EPOCHS):
            for batch in run.batches(Drawn(), 4):
                at(run.at.step)
                learn(model, optimizer, batch)
            scheduler.step(1.0)
            run.log(lr=optimizer.param_groups[0]["lr"])


def late_scheduler(folder: Path, at: At = nothing, **more: Any) -> None:
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.5)
    with Run(folder, console=QUIET, **more, model=model, optimizer=optimizer) as run:
        warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3)
        cool = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, BATCHES * EPOCHS)
        both = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, cool], [3])
        run.track(scheduler=both)
        for _ in run.epochs(EPOCHS):
            for batch in run.batches(Drawn(), 4):
                at(run.at.step)
                learn(model, optimizer, batch)
                both.step()
                run.log(lr=both.get_last_lr()[0])


def second_order(folder: Path, at: At = nothing, **more: Any) -> None:
    model = nn.Linear(6, 2)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.3, max_iter=3, history_size=4)
    with Run(folder, console=QUIET, **more, model=model, optimizer=optimizer) as run:
        for _ in run.epochs(EPOCHS):
            for batch in run.batches(POINTS, 4):
                at(run.at.step)

                def closure(batch: Any = batch) -> torch.Tensor:
                    optimizer.zero_grad()
                    loss = loss_of(model, batch)
                    loss.backward()
                    return loss

                run.log(loss=optimizer.step(closure))


class Replay:
    """A user's own object: tensors and plain values in a nest."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []
        self.counts = {"steps": 0, "last": float("nan")}

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen, "counts": self.counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen, self.counts = state["seen"], state["counts"]


def reinforce(folder: Path, at: At = nothing, **more: Any) -> None:
    """No data set: each step makes its own, and learns from what it remembers."""
    model = small_net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    replay, temperature = Replay(), nn.Parameter(torch.ones(()))
    heat = torch.optim.SGD([temperature], lr=0.1)
    objects = {"model": model, "optimizer": optimizer, "replay": replay}
    more = {"save_every": "5 steps", **more}
    with Run(folder, console=QUIET, **more, **objects, temperature=temperature, heat=heat) as run:
        for step in run.steps(BATCHES * EPOCHS):
            at(step)
            replay.seen = [*replay.seen[-5:], torch.randn(4, 6) + random.random()]
            batch = random.choice(replay.seen)
            loss = loss_of(model, (batch, batch[:, 0].gt(0).long())) * temperature
            optimizer.zero_grad()
            heat.zero_grad()
            loss.backward()
            optimizer.step()
            heat.step()
            replay.counts = {"steps": step, "last": loss.item()}
            run.log(loss=loss, tried=np.random.rand())


def by_steps(folder: Path, at: At = nothing, **more: Any) -> None:
    """Two epochs and a half, of a data set."""
    model = small_net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    with Run(folder, console=QUIET, **more, model=model, optimizer=optimizer) as run:
        for batch in run.steps(2 * BATCHES + 2, Drawn(), batch_size=4, shuffle=True):
            at(run.at.step)
            loss = learn(model, optimizer, batch)
            run.log(loss=loss)


class Stream(IterableDataset[tuple[torch.Tensor, torch.Tensor]]):
    """Samples one after the other, that know how far they are."""

    def __init__(self) -> None:
        self.at = 0

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while self.at < 4 * BATCHES:
            self.at += 1
            yield torch.randn(6) + self.at % 2, torch.tensor(self.at % 2)
        self.at = 0

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


def streamed(folder: Path, at: At = nothing, **more: Any) -> None:
    model, stream = small_net(), Stream()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Run(folder, console=QUIET, **more, model=model, optimizer=optimizer) as run:
        for _ in run.epochs(EPOCHS):
            for batch in run.batches(stream, 4):
                at(run.at.step)
                loss = learn(model, optimizer, batch)
                run.log(loss=loss)


def cut_short(folder: Path, at: At = nothing, **more: Any) -> None:
    """An epoch that its body leaves early: three batches of four are enough."""
    model = small_net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    with Run(folder, console=QUIET, **more, model=model, optimizer=optimizer) as run:
        for _ in run.epochs(EPOCHS):
            for number, batch in enumerate(run.batches(Drawn(), 4, shuffle=True), run.at.batch):
                at(run.at.step)
                loss = learn(model, optimizer, batch)
                if number == 2:
                    break
            run.log(loss=loss)


def alternating(folder: Path, at: At = nothing, **more: Any) -> None:
    """Two streams by turns, each with its name: a resume in any epoch puts each where it was."""
    model, even, odd = small_net(), Stream(), Stream()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    objects = {"model": model, "optimizer": optimizer, "even": even, "odd": odd}
    with Run(folder, console=QUIET, **more, **objects) as run:
        for epoch in run.epochs(EPOCHS):
            stream = odd if epoch % 2 else even
            for number, batch in enumerate(run.batches(stream, 4), run.at.batch):
                at(run.at.step)
                learn(model, optimizer, batch)
                if number == 2:
                    break  # before its end: the next epoch of this stream begins here


def stopped_early(folder: Path, at: At = nothing, **more: Any) -> None:
    """Asked for long, and ended from the middle of the second epoch, which comes to its end."""
    model = small_net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    with Run(folder, console=QUIET, **more, model=model, optimizer=optimizer) as run:
        for epoch in run.epochs(9):
            for batch in run.batches(Drawn(), 4, shuffle=True):
                at(run.at.step)
                learn(model, optimizer, batch)
                if run.at.step == BATCHES + 1:
                    run.stop()
            run.log(epoch_=epoch)


def stopped_at_a_step(folder: Path, at: At = nothing, **more: Any) -> None:
    model = small_net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    with Run(folder, console=QUIET, **more, model=model, optimizer=optimizer) as run:
        for batch in run.steps(99, Drawn(), batch_size=4):
            at(run.at.step)
            learn(model, optimizer, batch)
            if run.at.step == BATCHES + 1:
                run.stop()


LOOPS: dict[str, Callable[..., None]] = {
    loop.__name__: loop
    for loop in (
        accumulate,
        alternating,
        averaged,
        by_steps,
        contrast,
        cut_short,
        gan,
        late_scheduler,
        plateau,
        reinforce,
        scaled,
        second_order,
        stopped_at_a_step,
        stopped_early,
        streamed,
    )
}


def whole_of(loop: Callable[..., None], folder: Path, **more: Any) -> dict[str, bytes]:
    torch.manual_seed(0)
    loop(folder, **more)
    return bits(folder)


def steps_of(whole: dict[str, bytes]) -> int:
    state = next(content for name, content in whole.items() if name.endswith("/state.json"))
    return int(json.loads(state)["position"]["step"])


# --- the contract -----------------------------------------------------------------------------


@pytest.fixture(params=["early", "late"])
def copies(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Copies of a state are made at once, or as late as an optimizer's step lets them."""
    if request.param == "late":
        begin = threading.Event()
        copy, settle = snapshot._copy_all, Snapshot.settle

        def copy_late(pairs: Any) -> Any:
            begin.wait()
            begin.clear()
            return copy(pairs)

        def settle_late(self: Snapshot) -> list[str]:
            begin.set()
            return settle(self)

        monkeypatch.setattr(snapshot, "_copy_all", copy_late)
        monkeypatch.setattr(Snapshot, "settle", settle_late)
    return str(request.param)


@pytest.mark.usefixtures("copies")
@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_that_is_stopped_at_any_step_ends_with_the_same_bits(
    tmp_path: Path, name: str
) -> None:
    loop = LOOPS[name]
    whole = whole_of(loop, tmp_path / "whole")
    for step in range(steps_of(whole) - 1):
        cut = tmp_path / f"cut-{step}"
        torch.manual_seed(0)
        with pytest.raises(SystemExit) as stopped:
            loop(cut, stop_at(step))
        assert stopped.value.code == 130
        torch.manual_seed(99)  # nothing of this start may count
        taken: list[int] = []
        loop(cut, taken.append)
        assert taken[0] == step + 1, "the steps before were taken again"
        assert bits(cut) == whole, f"stopped at step {step}"


@pytest.mark.parametrize("name", LOOPS)
def test_a_body_that_raises_continues_at_the_step_it_left(tmp_path: Path, name: str) -> None:
    loop = LOOPS[name]
    whole = whole_of(loop, tmp_path / "whole", save_every="1 steps")
    cut = tmp_path / "cut"
    torch.manual_seed(0)
    for step in range(1, steps_of(whole)):
        taken: list[int] = []

        def act(now: int, step: int = step, taken: list[int] = taken) -> None:
            taken.append(now)
            fail_at(step)(now)

        with pytest.raises(BodyFailedError):
            loop(cut, act, save_every="1 steps")
        assert taken in ([step - 1, step], [0, 1]), "what was saved was not completed"
        torch.manual_seed(99)
    loop(cut, save_every="1 steps")
    assert bits(cut) == whole


@functools.cache
def whole_classify(source: str) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as place:
        return whole_of(classify, Path(place) / "whole", source=source)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more than there are cores
@pytest.mark.parametrize("source", SOURCES)
@settings(max_examples=8, deadline=None)
@given(
    stops=st.lists(st.integers(0, BATCHES * EPOCHS - 2), unique=True, min_size=1, max_size=3),
    workers=st.lists(st.sampled_from([0, 0, 1, 3]), min_size=4, max_size=4),
)
def test_stops_and_workers_do_not_count(source: str, stops: list[int], workers: list[int]) -> None:
    with tempfile.TemporaryDirectory() as place, disk.using(Unflushed()):
        folder = Path(place) / "cut"
        torch.manual_seed(0)
        for step, many in zip(sorted(stops), workers, strict=False):
            with pytest.raises(SystemExit):
                classify(folder, stop_at(step), source, many)
            torch.manual_seed(99)
        classify(folder, nothing, source, workers[-1])
        assert bits(folder) == whole_classify(source)


def test_another_seed_gives_other_batches_and_other_dropout(tmp_path: Path) -> None:
    def first(seed: int) -> list[torch.Tensor]:
        found = []
        with Run(tmp_path / str(seed), seed=seed, console=QUIET) as run:
            for _ in run.epochs(2):
                for points, _labels in run.batches(Drawn(), 4, shuffle=True):
                    found += [points, nn.functional.dropout(torch.ones(50))]
        return found

    one, other = first(1), first(2)
    assert not any(torch.equal(a, b) for a in one for b in other)
    assert not torch.equal(one[0], one[8]), "epochs differ too"


# --- what is saved, and when ------------------------------------------------------------------


def steps_of_run(folder: Path) -> list[int]:
    return checkpoint.steps_in(folder / "checkpoints")


@pytest.mark.parametrize(
    ("every", "steps"),
    [
        ("1 epoch", [4, 8, 12]),
        ("2 epochs", [8, 12]),
        ("5 steps", [5, 10, 12]),
        ("1 minute", [3, 6, 9, 12]),
        ("1.5 minutes", [5, 10, 12]),  # a step takes 20 s
    ],
)
def test_saves_fall_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: str, steps: list[int]
) -> None:
    now = 0.0

    def tick(_step: int) -> None:
        nonlocal now
        now += 20

    monkeypatch.setattr(keeper, "time", SimpleNamespace(monotonic=lambda: now))
    classify(tmp_path / "run", tick, save_every=every, keep=99)
    assert steps_of_run(tmp_path / "run") == steps


@given(
    costs=st.lists(st.floats(0.001, 1), min_size=1, max_size=6),
    step=st.floats(0.2, 3),
    percent=st.floats(1, 20),
)
@settings(deadline=None)
def test_saves_take_no_more_than_their_part_of_the_time(
    costs: list[float], step: float, percent: float
) -> None:
    now, spent = 0.0, Costs()
    saves: list[float] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keeper, "time", SimpleNamespace(monotonic=lambda: now))
        cadence = Cadence(Interval(percent, "percent"), spent)
        for cost in costs:
            while not cadence.due(Position()):
                now += step
            saves.append(now)
            cadence.saving()
            assert not cadence.due(Position()), "what this save costs is not known yet"
            now += cost
            spent.saves, spent.blocked = spent.saves + 1, spent.blocked + cost
    for cost, first, second in zip(costs, saves, saves[1:], strict=False):
        assert cost <= percent / 100 * (second - first) * (1 + 1e-6)
        assert second - first <= max(100 / percent * cost, cost) + step * (1 + 1e-6), "too late"


def test_a_run_saves_within_a_part_of_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, save = 0.0, Saver.save

    def tick(_step: int) -> None:
        nonlocal now
        now += 1000

    def save_and_wait(self: Saver, state: State) -> None:
        save(self, state)
        self.wait()  # else it is chance whether the next boundary knows what this one cost

    monkeypatch.setattr(keeper, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(Saver, "save", save_and_wait)
    classify(tmp_path / "seldom", save_every="0.00001%", keep=99)
    classify(tmp_path / "often", tick, save_every="100%", keep=99)
    assert steps_of_run(tmp_path / "seldom") == [1, 12], "the first tells what a save costs"
    assert len(steps_of_run(tmp_path / "often")) > 5


def test_the_newest_stay(tmp_path: Path) -> None:
    classify(tmp_path / "run", save_every="1 step", keep=3)
    assert steps_of_run(tmp_path / "run") == [10, 11, 12]


def scored(folder: Path, scores: list[float], at: At = nothing, **more: Any) -> None:
    model = nn.Linear(6, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Run(folder, console=QUIET, model=model, optimizer=optimizer, **more) as run:
        for epoch in run.epochs(len(scores)):
            for batch in run.batches(POINTS, 4):
                at(run.at.step)
                loss_of(model, batch).backward()
                optimizer.step()
                optimizer.zero_grad()
                run.log(loss=0.0)  # not what is looked at
            run.log(val=scores[epoch])


@pytest.mark.parametrize("every", ["1 epoch", "9 epochs", "100 minutes"])
@pytest.mark.parametrize(
    ("best", "kept"), [("max val", [8, 20]), ("min val", [16, 20]), (None, [20])]
)
def test_the_best_is_saved_and_stays(
    tmp_path: Path, best: str | None, kept: list[int], every: str
) -> None:
    scores = [2.0, 3.0, float("nan"), 1.0, 1.0]
    settings = {"best": best, "keep": 1, "save_every": every}
    scored(tmp_path / "whole", scores, **settings)
    assert steps_of_run(tmp_path / "whole") == kept
    for stop in (6, 9, 17):
        with pytest.raises(SystemExit):
            scored(tmp_path / "cut", scores, stop_at(stop), **settings)
    scored(tmp_path / "cut", scores, **settings)
    assert steps_of_run(tmp_path / "cut") == kept


def test_a_best_in_the_middle_of_an_epoch_is_the_state_it_was_logged_for(tmp_path: Path) -> None:
    with Run(tmp_path, console=QUIET, best="max score", save_every="100 steps", keep=1) as run:
        for step in run.steps(9):
            run.log(score=-abs(step - 4))
    assert steps_of_run(tmp_path) == [5, 9]


def test_a_finished_run_does_nothing_again(tmp_path: Path) -> None:
    classify(tmp_path / "run")
    before = bits(tmp_path / "run")
    taken: list[int] = []
    classify(tmp_path / "run", taken.append)
    assert not taken
    assert bits(tmp_path / "run") == before


@pytest.mark.parametrize("every", ["1 epoch", "1 steps"])
def test_epochs_without_batches_are_saved_each(tmp_path: Path, every: str) -> None:
    def train(count: int) -> list[int]:
        with Run(tmp_path, console=QUIET, save_every=every) as run:
            return list(run.epochs(count))

    assert train(3) == [0, 1, 2]
    assert train(3) == []
    assert train(5) == [3, 4]
    assert len(steps_of_run(tmp_path)) == 2


def test_the_end_of_an_epoch_is_saved_where_its_last_batch_was(tmp_path: Path) -> None:
    def train() -> list[int]:
        seen, stream = [], Stream()
        with Run(tmp_path, console=QUIET, save_every="1 steps", keep=1, best="max score") as run:
            for epoch in run.epochs(3):
                seen.append(epoch)
                list(run.batches(stream, 4))  # only its end says which batch was the last
                run.log(score=-epoch)
        return seen

    train()
    newest = checkpoint.newest(tmp_path / "checkpoints")
    assert newest is not None
    assert newest.state["position"] == {"epoch": 3, "batch": 0, "step": 3 * BATCHES}
    assert steps_of_run(tmp_path) == [BATCHES + 1, 3 * BATCHES + 3], "the best and the newest"
    assert train() == []


@pytest.mark.parametrize(
    ("loop", "steps"), [(stopped_early, 2 * BATCHES), (stopped_at_a_step, BATCHES + 2)]
)
def test_a_run_that_was_stopped_is_finished(
    tmp_path: Path, loop: Callable[..., None], steps: int
) -> None:
    assert steps_of(whole_of(loop, tmp_path)) == steps
    before = bits(tmp_path)
    taken: list[int] = []
    loop(tmp_path, taken.append)
    assert taken == []
    assert bits(tmp_path) == before


def test_a_run_that_was_stopped_goes_on_if_more_is_asked_for(tmp_path: Path) -> None:
    def epochs(count: int, stop_in: int = -1) -> list[int]:
        found = []
        with Run(tmp_path, console=QUIET) as run:
            for epoch in run.epochs(count):
                found.append(epoch)
                list(run.batches(POINTS, 8))
                if epoch == stop_in:
                    run.stop()
        return found

    assert epochs(5, stop_in=1) == [0, 1]
    assert epochs(5) == epochs(3) == []
    assert epochs(6, stop_in=3) == [2, 3]
    assert epochs(6) == []
    assert epochs(7) == [4, 5, 6]


def test_an_epoch_beyond_those_that_are_asked_for_is_not_ended(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        cut_short(tmp_path, stop_at(4))
    with Run(tmp_path, console=QUIET) as run:
        assert (run.at.epoch, run.at.batch) == (1, 2)
        model = small_net()
        run.track(model=model, optimizer=torch.optim.Adam(model.parameters()))
        assert list(run.epochs(1)) == []


def test_a_finished_run_may_be_made_longer(tmp_path: Path) -> None:
    def train(folder: Path, *counts: int) -> None:
        for count in counts:
            model = small_net()
            optimizer = torch.optim.Adam(model.parameters())
            with Run(folder, console=QUIET, model=model, optimizer=optimizer) as run:
                for batch in run.steps(count, Drawn(), batch_size=4, shuffle=True):
                    loss_of(model, batch).backward()
                    optimizer.step()
                    optimizer.zero_grad()
                    run.log(step_=run.at.step)

    for folder, counts in ((tmp_path / "whole", (10,)), (tmp_path / "parts", (4, 6, 10))):
        torch.manual_seed(0)
        train(folder, *counts)
    assert bits(tmp_path / "whole") == bits(tmp_path / "parts")


class Linkless(Unflushed):
    """A disk without hard links."""

    def link(self, source: Path, target: Path) -> None:  # noqa: ARG002
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))


class Full(Unflushed):
    """A disk that has no room for checkpoint 8."""

    def create(self, path: Path) -> int:
        if "step-00000008" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().create(path)


def half_frozen(folder: Path, epochs: int = 2) -> None:
    model = nn.Sequential(nn.Linear(6, 6).requires_grad_(False), nn.Linear(6, 2))
    optimizer = torch.optim.SGD(model[1].parameters(), lr=0.1)
    with Run(folder, console=QUIET, model=model, optimizer=optimizer) as run:
        for _ in run.epochs(epochs):
            for batch in run.batches(POINTS, 4):
                loss_of(model, batch).backward()
                optimizer.step()
                optimizer.zero_grad()
            run.log(done=True)


def test_a_file_system_without_hard_links_gets_the_same_files(tmp_path: Path) -> None:
    torch.manual_seed(0)
    half_frozen(tmp_path / "links")
    torch.manual_seed(0)
    with disk.using(Linkless()):
        half_frozen(tmp_path / "none")
    assert bits(tmp_path / "links") == bits(tmp_path / "none")
    links = {
        name: sorted(path.stat().st_nlink for path in (tmp_path / name).rglob("model-*1-*"))
        for name in ("links", "none")
    }
    assert links == {"links": [2, 2], "none": [1, 1]}


def test_a_full_disk_is_an_error_and_what_was_saved_is_continued(tmp_path: Path) -> None:
    whole = whole_of(classify, tmp_path / "whole")
    torch.manual_seed(0)
    with disk.using(Full()), pytest.raises(CannotWriteError) as raised:
        classify(tmp_path / "cut", disk_patience=0)
    assert "checkpoint 8 cannot be written to" in str(raised.value)
    assert "step-00000004" in str(raised.value)
    assert steps_of_run(tmp_path / "cut") == [4]
    classify(tmp_path / "cut")
    assert bits(tmp_path / "cut") == whole


class FullForMetrics(Unflushed):
    """A disk that has no room for the metrics of a run that begins."""

    def rename(self, source: Path, target: Path) -> None:
        if target.name == "metrics.jsonl":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().rename(source, target)


def test_a_disk_that_is_full_at_a_restart_is_an_error_that_names_the_last_good(
    tmp_path: Path,
) -> None:
    whole = whole_of(classify, tmp_path)
    with (
        disk.using(FullForMetrics()),
        pytest.raises(CannotWriteError, match=r"metrics\.jsonl .* checkpoint is .*step-00000012"),
    ):
        classify(tmp_path, disk_patience=0)
    classify(tmp_path)
    assert bits(tmp_path) == whole


@contextlib.contextmanager
def nothing_can_be_written() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_a_full_disk_refused_is_not_raised_again_at_the_end(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl", 0)
    metrics.add({"loss": 1.0})
    with nothing_can_be_written(), held(RunFolder(tmp_path)):
        with pytest.raises(OSError, match="File too large"):
            metrics.flush()
        metrics.close()


def test_the_first_save_of_a_run_that_continues_links_to_its_checkpoint(tmp_path: Path) -> None:
    half_frozen(tmp_path)
    half_frozen(tmp_path, epochs=3)
    frozen = [path.stat().st_nlink for path in (tmp_path / "checkpoints").glob("*/model-*1-*")]
    assert frozen == [2, 2]


def test_a_damaged_newest_checkpoint_is_passed_over_and_said(tmp_path: Path) -> None:
    whole = whole_of(classify, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").glob("step-00000012/model*"):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    said = io.StringIO()
    with Run(tmp_path / "run", seed=3, console=Console(said)) as run:
        assert run.at == Position(2, 0, 8)
    assert "passed over: checkpoint " in said.getvalue()
    assert "step-00000012: model.safetensors has another SHA-256" in said.getvalue()
    classify(tmp_path / "run")
    assert bits(tmp_path / "run") == whole


def test_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    classify(tmp_path)
    (tmp_path / "checkpoints" / ".tmp-step-00000016-ab").mkdir()
    (tmp_path / ".tmp-metrics.jsonl-ab").write_text("half")
    Run(tmp_path, seed=3, console=QUIET).close()
    assert not list(tmp_path.rglob(".tmp-*"))


def test_what_a_kill_left_in_the_metrics_is_cut_back(tmp_path: Path) -> None:
    whole = whole_of(classify, tmp_path / "whole")
    torch.manual_seed(0)
    with pytest.raises(SystemExit):
        classify(tmp_path / "cut", stop_at(5))
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "log", "epoch": 2, "st')
    classify(tmp_path / "cut")
    assert bits(tmp_path / "cut") == whole
    lines = (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines if "loss" in line] == list(range(12))


def test_an_optimizer_of_ones_own_takes_the_state_of_a_run(tmp_path: Path) -> None:
    averaged(tmp_path)
    model = small_net()
    optimizer = torch.optim.Adam(model.parameters())
    newest = max((tmp_path / "checkpoints").iterdir())
    report = load_optimizer(optimizer, model, newest)
    assert report.complete
    assert len(report.restored) == len(list(model.parameters()))


# --- errors -----------------------------------------------------------------------------------


class Endless(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(8))


def _batches_without_an_epoch(folder: Path) -> None:
    with Run(folder, console=QUIET) as run:
        next(run.batches(POINTS))


def _batches_after_the_epochs(folder: Path) -> None:
    with Run(folder, console=QUIET) as run:
        for _ in run.epochs(1):
            pass
        next(run.batches(POINTS))


def _batches_twice(folder: Path) -> None:
    with Run(folder, console=QUIET) as run:
        for _ in run.epochs(1):
            list(run.batches(POINTS, 4))
            list(run.batches(Drawn(), 4))


def _two_loops(folder: Path) -> None:
    with Run(folder, console=QUIET) as run:
        for _ in run.epochs(1):
            next(run.steps(3, POINTS))


def _no_position(folder: Path) -> None:
    with Run(folder, console=QUIET) as run:
        for _ in run.epochs(1):
            next(run.batches(Endless(), 4))


def _no_batch(folder: Path) -> None:
    with Run(folder, console=QUIET) as run:
        next(run.steps(3, POINTS, batch_size=16, drop_last=True))


def _epochs_of_steps(folder: Path) -> None:
    with Run(folder, console=QUIET) as run:
        next(run.steps(3))


def _no_state(folder: Path) -> None:
    Run(folder, console=QUIET, seeds=[1, 2])


def _same_name(folder: Path) -> None:
    with Run(folder, console=QUIET, model=small_net()) as run:
        run.track(model=small_net())


def _luthiers_name(folder: Path) -> None:
    Run(folder, console=QUIET, gradients=small_net())


def _nameless_parameter(folder: Path) -> None:
    other = nn.Linear(3, 5)
    optimizer = torch.optim.SGD([*small_net().parameters(), *other.parameters()], lr=0.1)
    Run(folder, console=QUIET, other=other, optimizer=optimizer)


def _strange_log(folder: Path) -> None:
    with Run(folder, console=QUIET) as run:
        run.log(model=small_net())


def _complex_log(folder: Path) -> None:
    with Run(folder, console=QUIET) as run:
        run.log(root=torch.tensor(1j))


def _own_word_in_log(folder: Path) -> None:
    with Run(folder, console=QUIET) as run:
        run.log(step=3)


def _file(folder: Path) -> None:
    folder.write_text("")
    Run(folder, console=QUIET)


def _finetune(folder: Path) -> None:
    folder.mkdir()
    (folder / "recipe.toml").write_text("")
    Run(folder, console=QUIET)


def _in_use(folder: Path) -> None:
    with Run(folder, console=QUIET):
        Run(folder.parent / "." / folder.name, console=QUIET)


def _another_seed(folder: Path) -> None:
    classify(folder)
    Run(folder, seed=4, console=QUIET)


def _missing(folder: Path) -> None:
    plateau(folder)
    with Run(folder, console=QUIET, model=small_net()) as run:
        run.track(schedular=Replay())
        next(run.epochs(9))


def _another_architecture(folder: Path) -> None:
    classify(folder)
    Run(folder, seed=3, console=QUIET, model=nn.Sequential(nn.Linear(6, 9)))


def _another_optimizer(folder: Path) -> None:
    classify(folder)
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    Run(folder, seed=3, console=QUIET, model=model, optimizer=optimizer)


def _another_shape(folder: Path) -> None:
    contrast(folder)
    Run(folder, console=QUIET, queue=torch.zeros(16, 4))


def _all_damaged(folder: Path) -> None:
    classify(folder)
    for path in folder.glob("checkpoints/*/manifest.json"):
        path.write_text("{}")
    Run(folder, seed=3, console=QUIET)


def _cut_metrics(folder: Path) -> None:
    classify(folder)
    (folder / "metrics.jsonl").write_text("{}\n")
    Run(folder, seed=3, console=QUIET)


def _two_positions(folder: Path) -> None:
    with Run(folder, console=QUIET) as run:
        streams = [Stream(), Stream()]
        for epoch in run.epochs(2):
            list(run.batches(streams[epoch], 4))


def _nothing_to_stop(folder: Path) -> None:
    with Run(folder, console=QUIET) as run:
        run.stop()


def _no_tensor_of_this_name(folder: Path) -> None:
    contrast(folder)
    Run(folder, console=QUIET, query=nn.Linear(6, 4), slow=torch.zeros(4, 6))


def _no_optimizer_of_this_name(folder: Path) -> None:
    contrast(folder)
    query = nn.Linear(6, 4)
    Run(folder, console=QUIET, query=query, queue=torch.optim.SGD(query.parameters()))


REFUSED: dict[Callable[[Path], None], tuple[type[Exception], tuple[str, ...]]] = {
    _batches_without_an_epoch: (UnkeyedError, ("no epoch is under way", "run.epochs(25)")),
    _batches_after_the_epochs: (UnkeyedError, ("no epoch is under way",)),
    _batches_twice: (UnkeyedError, ("called twice in epoch", "validation data from a DataLoader")),
    _two_loops: (UnkeyedError, ("under way already",)),
    _no_position: (DataError, ("Endless", "has no positions", "__getitem__ and __len__")),
    _no_batch: (DataError, ("has no batch", "drop_last")),
    _epochs_of_steps: (RecipeError, ("run.steps without data", "save_every='N steps'")),
    _no_state: (UnsupportedStateError, ("seeds is a list", "load_state_dict", "two methods")),
    _same_name: (RunFolderError, ("'model' is tracked already",)),
    _luthiers_name: (RunFolderError, ("'gradients' is luthier's own",)),
    _nameless_parameter: (DoesNotFitError, ("parameter 0 of group 0 of SGD", "track the module")),
    _strange_log: (TypeError, ("log(model=…)", "Sequential")),
    _complex_log: (TypeError, ("log(root=…)", "complex")),
    _own_word_in_log: (TypeError, ("log(step=…)", "another name")),
    _file: (RunFolderError, ("is a file, expected a folder",)),
    _finetune: (RunFolderError, ("holds a run of luthier finetune", "luthier resume")),
    _in_use: (RunFolderError, ("in use by this process", "close it first")),
    _another_seed: (RunFolderError, ("began with seed=3, not 4", "give seed=3")),
    _missing: (DoesNotFitError, ("'optimizer', which is not tracked", "run.track(optimizer=…)")),
    _another_architecture: (
        DoesNotFitError,
        ("does not fit model", "0.weight", "[8, 6]", "[9, 6]", "start a new run"),
    ),
    _another_optimizer: (DoesNotFitError, ("the state of AdamW", "the optimizer is SGD")),
    _another_shape: (DoesNotFitError, ("queue", "(8, 4)", "(16, 4)")),
    _two_positions: (DataError, ("a second Stream", "run.track(first=…, second=…)")),
    _nothing_to_stop: (UnkeyedError, ("none is under way", "run.epochs or run.steps")),
    _no_tensor_of_this_name: (DoesNotFitError, ("slow is a tensor here", "has none")),
    _no_optimizer_of_this_name: (DoesNotFitError, ("is SGD", "no optimizer's state")),
    _all_damaged: (LuthierError, ("no checkpoint in", "is sound", "step-00000012")),
    _cut_metrics: (RunFolderError, ("has 1 lines, expected 15",)),
}


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.__name__.strip("_"))
def test_an_error_names_the_thing_and_the_cure(
    tmp_path: Path, case: Callable[[Path], None]
) -> None:
    kind, words = REFUSED[case]
    with pytest.raises(kind) as raised:
        case(tmp_path / "run")
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize(
    "use",
    [
        lambda run: run.log(loss=1),
        lambda run: list(run.epochs(1)),
        lambda run: list(run.steps(1, POINTS)),
        lambda run: run.track(model=nn.Linear(1, 1)),
    ],
)
def test_a_run_that_is_closed_writes_to_nothing(tmp_path: Path, use: Callable[[Run], Any]) -> None:
    run = Run(tmp_path / "run", console=QUIET)
    run.close()
    run.close()
    (tmp_path / "other").write_bytes(b"")
    # The other file may have the number that metrics.jsonl had.
    with (tmp_path / "other").open("ab"), pytest.raises(RunFolderError, match="is closed"):
        use(run)
    assert (tmp_path / "other").read_bytes() == b""


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.__name__.strip("_"))
def test_a_refused_run_holds_its_folder_no_longer(
    tmp_path: Path, case: Callable[[Path], None]
) -> None:
    with pytest.raises(Exception) as raised:  # noqa: PT011 - the test above says which
        case(tmp_path / "run")
    (tmp_path / "run").with_suffix(".tmp").touch()
    if case in (_file, _finetune, _another_seed, _all_damaged, _cut_metrics):
        shutil.rmtree(tmp_path)
    seed = 3 if case in (_another_architecture, _another_optimizer) else 0
    Run(tmp_path / "run", seed=seed, console=QUIET).close()
    assert raised.value.__traceback__ is not None, "what it raised is still there"


def test_what_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    late_scheduler(tmp_path)
    torch.manual_seed(7)
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.5)
    constant = torch.optim.lr_scheduler.ConstantLR(optimizer)
    queue, other = torch.zeros(4), nn.Linear(2, 2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with Run(tmp_path, console=QUIET) as run:
        # The first fits; one after it does not, each time for another reason.
        with pytest.raises(DoesNotFitError, match="scheduler is a tensor here"):
            run.track(model=model, optimizer=optimizer, scheduler=queue)
        with pytest.raises(DoesNotFitError, match="no optimizer's state"):
            run.track(model=model, scheduler=optimizer)
        with pytest.raises(DoesNotFitError, match="does not fit optimizer"):
            run.track(model=model, scheduler=constant, optimizer=other)
        with pytest.raises(UnsupportedStateError):
            run.track(model=model, optimizer=optimizer, scheduler=[1])
        assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
        assert not optimizer.state
        assert constant.last_epoch == 0
        run.track(model=model, optimizer=optimizer)  # none of them is tracked yet
        assert optimizer.state
        assert not torch.equal(before["0.weight"], model[0].weight)


@pytest.mark.parametrize("settings", [{"keep": 0}, {"save_every": "often"}, {"best": "accuracy"}])
def test_a_wrong_setting_writes_nothing(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=str(next(iter(settings.values())))):
        Run(tmp_path / "run", console=QUIET, **settings)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_to_is_named() -> None:
    # Not below pytest's own, whose parents are closed to the user that root becomes here.
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        folder.mkdir(mode=0o555)
        Path(place).chmod(0o755)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            with pytest.raises(CannotWriteError, match="cannot be written: Permission denied"):
                Run(folder, console=QUIET)
        finally:
            if root:
                os.seteuid(0)


# --- what it says -----------------------------------------------------------------------------


def said_by(action: Callable[[Console], object]) -> str:
    said = io.StringIO()
    action(Console(said))
    return said.getvalue()


def train_and_say(folder: Path, console: Console, at: At = nothing, size: int = 4) -> None:
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Run(folder, console=console, model=model, optimizer=optimizer) as run:
        for _ in run.epochs(2):
            for batch in run.batches(POINTS, size):
                at(run.at.step)
                learn(model, optimizer, batch)


def test_a_run_says_where_it_begins_stops_and_continues(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        train_and_say(tmp_path, Console(), stop_at(5))
    train_and_say(tmp_path, Console())
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        f"run {tmp_path} begins",
        "stopped and saved at step 6 (epoch 2, batch 2); start the same script again to go on",
        f"run {tmp_path} continues at step 6 (epoch 2, batch 2)",
    ]
    assert captured.out == ""
    assert (tmp_path / "log.txt").read_text() == captured.err


def test_changed_conditions_are_named(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    with pytest.raises(SystemExit):
        train_and_say(tmp_path, QUIET, stop_at(1))
    torch.set_num_threads(threads + 1)
    try:
        said = said_by(lambda console: train_and_say(tmp_path, console))
    finally:
        torch.set_num_threads(threads)
    assert f"not the same bits: threads was {threads}, is {threads + 1}" in said


@pytest.mark.parametrize("size", [3, 5, 15])
def test_another_number_of_batches_is_said(tmp_path: Path, size: int) -> None:
    with pytest.raises(SystemExit):
        train_and_say(tmp_path, QUIET, stop_at(1))
    said = said_by(lambda console: train_and_say(tmp_path, console, size=size))
    assert f"not the same bits: batches of epoch 1 were 4, are {-(-15 // size)}" in said


def test_an_object_that_is_new_to_the_run_is_said(tmp_path: Path) -> None:
    classify(tmp_path)
    said = said_by(lambda console: Run(tmp_path, seed=3, console=console, replay=Replay()).close())
    assert "replay is not in the checkpoint and starts as it is" in said


def test_a_tensor_that_changes_between_steps_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(run: Run, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for _ in run.epochs(3):
            for batch in run.batches(POINTS, 4):
                with torch.no_grad():
                    model.weight.mul_(0.9)
                loss_of(model, batch).backward()
                optimizer.step()

    model = nn.Linear(6, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Run(tmp_path, save_every="1 step", model=model, optimizer=optimizer, keep=99) as run:
        train(run, model, optimizer)
    said = capsys.readouterr().err
    assert said.count("weight changed outside of an optimizer's step") == 1
    assert steps_of_run(tmp_path) == list(range(2, 13)), "the first was of no use"


# --- batches ----------------------------------------------------------------------------------


def test_other_settings_of_the_same_data_set_hold(tmp_path: Path) -> None:
    with Run(tmp_path, console=QUIET) as run:
        sizes = [
            [len(labels) for _points, labels in run.batches(POINTS, 4 + epoch)]
            for epoch in run.epochs(3)
        ]
    assert sizes == [[4, 4, 4, 3], [5, 5, 5], [6, 6, 3]]


def test_workers_of_data_sets_that_are_gone_end(tmp_path: Path) -> None:
    import multiprocessing  # noqa: PLC0415

    with Run(tmp_path, console=QUIET) as run:
        for _ in run.epochs(5):
            list(run.batches(Drawn(), 4, num_workers=1, persistent_workers=True))
            assert len(multiprocessing.active_children()) <= 2
    assert not multiprocessing.active_children()


# --- processes and signals --------------------------------------------------------------------


class Gate(disk.Disk):
    """A disk on which files of tensors are written once a file ``open`` is there."""

    def __init__(self, folder: Path, refuse: bool) -> None:
        self.gate, self.refuse, self.told = folder / "open", refuse, False

    def create(self, path: Path) -> int:
        if path.suffix == ".safetensors" and not self.gate.exists():
            if self.refuse:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if not self.told:
                print("writing", flush=True)
                self.told = True
            while not self.gate.exists():
                threading.Event().wait(0.01)
        return super().create(path)


def child(kind: str, folder: str) -> None:
    """What the processes below do; each line that it prints is waited for."""
    place = Path(folder)

    def act(step: int) -> None:
        print(f"step {step}", flush=True)
        while kind == "waits" and step == 5:
            threading.Event().wait(0.01)
        if kind == "fails" and step == 5:
            raise BodyFailedError("the body has failed")

    torch.manual_seed(0)
    if kind == "refused":
        refused_child(place)
    elif kind == "unclosed":
        unclosed_child(place)
    elif kind == "gate":
        with disk.using(Gate(place, refuse=False)):
            classify(place, act, "persistent", 2, save_every="4 steps")
    else:
        classify(place, act, "persistent", 2)


def refused_child(place: Path) -> None:
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with disk.using(Gate(place, refuse=True)):
        run = Run(place, model=model, optimizer=optimizer, save_every="1 step")
        for batch in run.steps(100, POINTS, batch_size=4):
            loss_of(model, batch).backward()
            optimizer.step()
            told = False
            while run.at.step == 1:
                if run._stop.asked and not told:
                    print("asked", flush=True)
                    told = True
                threading.Event().wait(0.01)


def unclosed_child(place: Path) -> None:
    """Fail between a save and the step that would wait for its copy; nothing closes the run."""
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = Run(place, model=model, optimizer=optimizer, save_every="1 step", console=QUIET)
    for batch in run.steps(100, POINTS, batch_size=4):
        if run.at.step == 3:
            if os.fork() == 0:
                sys.exit()  # which completes nothing: the save is its parent's
            os.wait()
            assert steps_of_run(place) == [1, 2]
            raise BodyFailedError("the body has failed")
        loss_of(model, batch).backward()
        optimizer.step()


class Child:
    """A process in a group of its own; a fresh one where its end is the interpreter's."""

    def __init__(self, kind: str, folder: Path, *, fresh: bool = False) -> None:
        self.process: Any = self._fresh(kind, folder) if fresh else self._forked(kind, folder)

    def _forked(self, kind: str, folder: Path) -> Forked:
        def work() -> None:
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", message="This DataLoader")
            child(kind, str(folder))

        with disk.using(disk.Disk()):  # the child's power may fail
            return Forked(work)

    def _fresh(self, kind: str, folder: Path) -> subprocess.Popen[str]:
        code = f"import test_run; test_run.child({kind!r}, {str(folder)!r})"
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-W", "ignore:This DataLoader", "-c", code],
            cwd=Path(__file__).parent,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def until(self, line: str) -> None:
        assert self.process.stdout is not None
        assert any(said == f"{line}\n" for said in self.process.stdout), self.end()

    def until_said(self, words: str) -> None:
        assert self.process.stderr is not None
        assert any(words in said for said in self.process.stderr)

    def signal(self, number: int) -> None:
        os.killpg(self.process.pid, number)  # workers too, as terminals and schedulers do

    def end(self) -> str:
        _, said = self.process.communicate(timeout=60)
        return str(said)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_facts: object) -> None:
        if self.process.poll() is None:
            self.signal(signal.SIGKILL)
        self.process.communicate()
        if self.process.returncode != -signal.SIGKILL:
            with pytest.raises(ProcessLookupError):  # no worker outlives it
                os.killpg(self.process.pid, 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_the_whole_group_saves_and_leaves_with_130(
    tmp_path: Path, number: signal.Signals
) -> None:
    with Child("goes on", tmp_path) as process:
        process.until("step 4")
        process.signal(number)
        said = process.end()
        assert process.process.returncode == 130, said
    assert said == ""
    log = (tmp_path / "log.txt").read_text()
    newest = steps_of_run(tmp_path)[-1]
    assert f"stopped and saved at step {newest} (epoch" in log
    assert "start the same script again to go on" in log
    torch.manual_seed(99)
    classify(tmp_path, source="persistent")
    assert bits(tmp_path) == whole_classify("persistent")


def test_a_signal_in_the_middle_of_a_save_completes_it(tmp_path: Path) -> None:
    with Child("gate", tmp_path) as process:
        process.until("writing")
        process.signal(signal.SIGTERM)
        (tmp_path / "open").touch()
        said = process.end()
        assert process.process.returncode == 130, said
    assert verify(tmp_path).sound
    assert steps_of_run(tmp_path)
    assert not list(tmp_path.rglob(".tmp-*"))
    classify(tmp_path, source="persistent")
    assert bits(tmp_path) == whole_classify("persistent")


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    with Child("refused", tmp_path, fresh=True) as process:
        process.until_said("No space left on device; trying again for 600 s")
        process.signal(signal.SIGINT)
        process.until("asked")
        process.signal(signal.SIGINT)
        said = process.end()
        assert process.process.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in said


def test_a_run_at_work_is_held_and_a_kill_frees_it(tmp_path: Path) -> None:
    with Child("waits", tmp_path) as process:
        process.until("step 5")
        with pytest.raises(RunFolderError, match=f"is in use by process {process.process.pid}"):
            Run(tmp_path, seed=3, console=QUIET)
        process.signal(signal.SIGKILL)
        process.end()
        torch.manual_seed(0)  # the first save may not have been done yet
        classify(tmp_path, source="persistent")
    assert bits(tmp_path) == whole_classify("persistent")


def test_a_body_that_raises_ends_the_process_and_its_workers(tmp_path: Path) -> None:
    with Child("fails", tmp_path, fresh=True) as process:
        said = process.end()
        assert process.process.returncode == 1
    assert said.splitlines()[-1].endswith("BodyFailedError: the body has failed")
    torch.manual_seed(0)
    classify(tmp_path, source="persistent")
    assert bits(tmp_path) == whole_classify("persistent")


def test_the_save_under_way_is_completed_where_nothing_closes_the_run(tmp_path: Path) -> None:
    with Child("unclosed", tmp_path, fresh=True) as process:
        said = process.end()
        assert process.process.returncode == 1
    assert said.splitlines()[-1].endswith("BodyFailedError: the body has failed")
    assert steps_of_run(tmp_path) == [2, 3]
    assert verify(tmp_path).sound
    assert not list(tmp_path.rglob(".tmp-*"))

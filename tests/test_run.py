"""``luthier.Run``: a loop that is stopped anywhere and started again ends with the same bits."""

from __future__ import annotations

import random
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
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

from luthier import Run
from luthier.files import disk
from luthier.report import Console

QUIET = Console(quiet=True)
At = Callable[[int], None]  # is told of every step, in its body
BATCHES, EPOCHS = 4, 3


class Unflushed(disk.Disk):
    """A disk that is quick: no test in this process lets the power fail."""

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
    return {
        f"{newest.name}/{p.name}": p.read_bytes() for p in files if p.name != "manifest.json"
    }


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


def classify(folder: Path, at: At = nothing, source: str = "dataset", workers: int = 0, **more: Any) -> None:
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
                loss = loss_of(model, batch)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
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


def averaged(folder: Path, at: At = nothing, late: bool = False, **more: Any) -> None:
    model = small_net()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8), use_buffers=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    objects = {"model": model, "optimizer": optimizer}
    with Run(folder, console=QUIET, **more, **objects, **({} if late else {"average": average})) as run:
        if late:
            run.track(average=average)
        for _ in run.epochs(EPOCHS):
            for batch in run.batches(Drawn(), 4):
                at(run.at.step)
                optimizer.zero_grad()
                loss_of(model, batch).backward()
                optimizer.step()
                average.update_parameters(model)


def averaged_late(folder: Path, at: At = nothing, **more: Any) -> None:
    averaged(folder, at, late=True, **more)


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
                optimizer.zero_grad()
                loss = loss_of(model, batch)
                loss.backward()
                optimizer.step()
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
                optimizer.zero_grad()
                loss_of(model, batch).backward()
                optimizer.step()
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
            optimizer.zero_grad()
            loss = loss_of(model, batch)
            loss.backward()
            optimizer.step()
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
                optimizer.zero_grad()
                loss = loss_of(model, batch)
                loss.backward()
                optimizer.step()
                run.log(loss=loss)


def cut_short(folder: Path, at: At = nothing, **more: Any) -> None:
    """An epoch that its body leaves early: three batches of four are enough."""
    model = small_net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    with Run(folder, console=QUIET, **more, model=model, optimizer=optimizer) as run:
        for _ in run.epochs(EPOCHS):
            for number, batch in enumerate(run.batches(Drawn(), 4, shuffle=True), run.at.batch):
                at(run.at.step)
                optimizer.zero_grad()
                loss = loss_of(model, batch)
                loss.backward()
                optimizer.step()
                if number == 2:
                    break
            run.log(loss=loss)


LOOPS: dict[str, Callable[..., None]] = {
    loop.__name__: loop
    for loop in (
        accumulate,
        averaged,
        averaged_late,
        by_steps,
        contrast,
        cut_short,
        gan,
        late_scheduler,
        plateau,
        reinforce,
        scaled,
        second_order,
        streamed,
    )
}


def whole_of(loop: Callable[..., None], folder: Path, **more: Any) -> dict[str, bytes]:
    torch.manual_seed(0)
    loop(folder, **more)
    return bits(folder)


def steps_of(whole: dict[str, bytes]) -> int:
    return int(next(iter(whole)).partition("/")[0].removeprefix("step-"))


# --- the contract -----------------------------------------------------------------------------


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


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    root = tmp_path_factory.mktemp("wholes")
    with disk.using(Unflushed()):
        return {source: whole_of(classify, root / source, source=source) for source in SOURCES}


@pytest.mark.parametrize("source", SOURCES)
@settings(max_examples=8, deadline=None)
@given(
    stops=st.lists(st.integers(0, BATCHES * EPOCHS - 2), unique=True, min_size=1, max_size=3),
    workers=st.lists(st.sampled_from([0, 0, 1, 3]), min_size=4, max_size=4),
)
def test_stops_and_workers_do_not_count(
    wholes: dict[str, dict[str, bytes]], source: str, stops: list[int], workers: list[int]
) -> None:
    with tempfile.TemporaryDirectory() as place, disk.using(Unflushed()):
        folder = Path(place) / "cut"
        torch.manual_seed(0)
        for step, many in zip(sorted(stops), workers, strict=False):
            with pytest.raises(SystemExit):
                classify(folder, stop_at(step), source, many)
            torch.manual_seed(99)
        classify(folder, nothing, source, workers[-1])
        assert bits(folder) == wholes[source]


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

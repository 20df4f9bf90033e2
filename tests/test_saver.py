"""Saves behind the training: what a disk refuses, what is linked, what is kept, how it ends."""

from __future__ import annotations

import errno
import gc
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from torch import nn

from faults import FaultyDisk
from luthier import checkpoint, vision
from luthier.checkpoint import Captured, Saver, State, saver, store
from luthier.errors import (
    CannotWriteError,
    DamagedError,
    DivergedError,
    FrozenMovedError,
    RunFolderError,
)
from luthier.files import disk, durable
from luthier.run.tracked import Tracked


def state(step: int, *, best: bool = False, **options: Any) -> State:
    tensors = {"w": torch.arange(6.0) + step, "b": torch.tensor(step)}
    return State(step, {"model": Captured(later=tensors)}, {"step": step}, {}, best, **options)


def bytes_in(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def sound(folder: Path) -> list[int]:
    """Give the steps of all checkpoints; each is verified and is what was saved."""
    steps = checkpoint.steps_in(folder)
    for step in steps:
        found = checkpoint.read(checkpoint.directory_of(folder, step))
        assert found.state == {"step": step}
        assert torch.equal(found.parts["model"].tensors["w"], torch.arange(6.0) + step)
    return steps


def left(folder: Path) -> list[str]:
    """Give the names of what is no checkpoint."""
    return [path.name for path in folder.iterdir() if not path.name.startswith("step-")]


class Clock(threading.Event):
    """A clock that only waiting moves on; it stands in for a saver's waits."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.pauses = 0.0, list[float]()

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.pauses.append(timeout)
        self.now += timeout
        return self.is_set()

    def monotonic(self) -> float:
        return self.now

    def perf_counter(self) -> float:
        return self.now

    thread_time = perf_counter


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(saver, "time", made)
    return made


@pytest.fixture
def said() -> list[str]:
    return []


Make = Callable[..., Saver]


@pytest.fixture
def make(tmp_path: Path, said: list[str]) -> Iterator[Make]:
    savers = []

    def made(clock: Clock | None = None, **options: Any) -> Saver:
        one = Saver(tmp_path, say=said.append, **options)
        if clock is not None:
            one._given_up = clock
        savers.append(one)
        return one

    yield made
    for one in savers:
        one.close(at_once=True)
        one._thread.shutdown()


class Refusing(disk.Disk):
    """A disk that refuses one operation, some times or for ever."""

    def __init__(self, number: int, times: float, operation: str = "create") -> None:
        self.number, self.left, self.tries = number, times, 0
        allowed = getattr(self, operation)

        def tried(*given: Any) -> Any:
            self.tries += 1
            if self.left > 0:
                self.left -= 1
                raise OSError(self.number, "refused")
            return allowed(*given)

        setattr(self, operation, tried)


# --- a disk in trouble ------------------------------------------------------------------------


@pytest.mark.parametrize("number", saver.DISK_TROUBLE)
def test_a_save_is_tried_again_until_there_is_room(
    tmp_path: Path, make: Make, clock: Clock, said: list[str], number: int
) -> None:
    one = make(clock, keep=9)
    one.save(state(1))
    one.wait()
    with disk.using(Refusing(number, 5)):
        one.save(state(2))
        one.wait()
    assert sound(tmp_path) == [1, 2]
    assert left(tmp_path) == []
    assert clock.pauses == [1, 2, 4, 8, 16]
    assert len(said) == 1
    assert said[0].startswith(f"checkpoint 2 cannot be written to {tmp_path.parent}")
    assert said[0].endswith("refused; trying again for 600 s")
    assert one.costs.saves == 2
    one.check()


@pytest.mark.parametrize("patience", [0.0, 100.0, 600.0])
def test_when_patience_is_at_an_end_it_is_an_error_that_names_the_last_good(
    tmp_path: Path, make: Make, clock: Clock, said: list[str], patience: float
) -> None:
    one = make(clock, keep=1, patience=patience)
    one.save(state(1))
    one.wait()
    before = bytes_in(tmp_path)
    with disk.using(Refusing(errno.ENOSPC, float("inf"))):
        one.save(state(2))
        with pytest.raises(CannotWriteError) as caught:
            one.wait()
    message = str(caught.value)
    assert f"checkpoint 2 cannot be written to {tmp_path.parent}" in message
    assert f"refused; the last good checkpoint is {tmp_path / 'step-00000001'}" in message
    assert "make room" in message
    assert sum(clock.pauses) == patience
    assert max(clock.pauses, default=0) <= 30
    assert len(said) == (patience > 0)
    assert bytes_in(tmp_path) == before
    assert left(tmp_path) == []
    one.check()  # said once
    one.save(state(3))  # and when there is room again, it goes on
    one.wait()
    assert sound(tmp_path) == [3]


def test_without_any_checkpoint_the_error_says_so(make: Make) -> None:
    one = make(patience=0)
    with disk.using(Refusing(errno.EIO, 1)):
        one.save(state(1))
        with pytest.raises(CannotWriteError, match="refused; nothing is saved"):
            one.wait()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP])
def test_what_waiting_does_not_mend_is_an_error_at_once(
    tmp_path: Path, make: Make, clock: Clock, said: list[str], number: int
) -> None:
    one = make(clock)
    refusing = Refusing(number, 1)
    with disk.using(refusing):
        one.save(state(1))
        with pytest.raises(OSError, match="refused") as caught:
            one.wait()
    assert caught.value.errno == number
    assert (refusing.tries, clock.pauses, said) == (1, [], [])
    assert left(tmp_path) == []


@pytest.mark.parametrize("how", ["check", "save", "wait", "close"])
def test_a_failed_save_is_raised_by_the_next_call(tmp_path: Path, make: Make, how: str) -> None:
    one = make(patience=0)
    with disk.using(Refusing(errno.ENOSPC, 1)):
        one.save(state(1))
        one.settle()
        assert one._writing is not None
        assert one._writing.exception() is not None  # it has come to its end
    call = {"save": lambda: one.save(state(2))}.get(how, getattr(one, how))
    with pytest.raises(CannotWriteError, match="checkpoint 1 cannot be written"):
        call()
    assert checkpoint.steps_in(tmp_path) == []


@pytest.mark.parametrize("fault", ["ENOSPC", "EDQUOT", "EIO", "EIO after"])
def test_whatever_operation_fails_the_next_try_makes_it_good(
    tmp_path: Path, make: Make, clock: Clock, said: list[str], fault: str
) -> None:
    one = make(clock, keep=2)
    for step in (1, 2):
        one.save(state(step))
    one.wait()
    for at in itertools.count():
        del said[:]
        clock.pauses.clear()
        step = at + 3
        with disk.using(faulty := FaultyDisk(fault, at)):
            one.save(state(step))
            one.wait()
        assert sound(tmp_path) == [step - 1, step]
        assert clock.pauses in ([], [1])
        assert len(said) == len(clock.pauses)
        if at >= len(faulty.log):
            break
        durable.sweep(tmp_path)
    assert at > 10


def test_no_room_is_noticed_before_anything_is_written(
    tmp_path: Path, make: Make, clock: Clock, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make(clock)
    free = iter([1000, 2000, 1 << 30])
    monkeypatch.setattr(durable, "free_bytes", lambda _folder: next(free))
    with disk.using(log := FaultyDisk()):
        one.save(state(1))
        one.wait()
    assert len(clock.pauses) == 2
    assert "MB are needed and 0.0 MB are free" in said[0]
    assert [name for name, _ in log.log].count("rename") == 1
    assert sound(tmp_path) == [1]


# --- what must not be kept --------------------------------------------------------------------


@pytest.mark.parametrize("error", [DivergedError, FrozenMovedError])
def test_a_state_that_must_not_be_kept_is_not_published(
    tmp_path: Path, make: Make, error: type[Exception]
) -> None:
    weights, seen = torch.zeros(3), []

    def look(tensors: Any) -> None:
        seen.append({name: tensor.clone() for name, tensor in tensors.items()})
        raise error("it moved")

    one = make()
    one.save(state(1))
    part = Captured(
        later={"w": weights}, now={"b": weights.clone()}, still=frozenset("w"), check=look
    )
    one.save(State(2, {"model": part}, {}, {}))
    one.settle()
    weights.fill_(9)  # after the copy
    with pytest.raises(error, match="it moved"):
        one.wait()
    assert [sorted(tensors) for tensors in seen] == [["b", "w"]]
    assert torch.equal(seen[0]["w"], torch.zeros(3))
    assert sound(tmp_path) == [1]
    assert left(tmp_path) == []
    one.save(state(3))
    one.wait()
    assert sound(tmp_path) == [1, 3]
    assert one.costs.saves == 2


def test_what_the_state_refers_to_is_on_the_disk_first(tmp_path: Path, make: Make) -> None:
    one, seen = make(), []

    def before() -> None:
        seen.append((checkpoint.steps_in(tmp_path), threading.current_thread().name))

    one.save(state(1, before=before))
    one.wait()
    assert seen == [([], "luthier-save_0")]

    def refuse() -> None:
        raise RunFolderError("no log")

    one.save(state(2, before=refuse))
    with pytest.raises(RunFolderError, match="no log"):
        one.wait()
    assert sound(tmp_path) == [1]


# --- which stay -------------------------------------------------------------------------------


def test_the_newest_and_the_best_are_kept(tmp_path: Path, make: Make) -> None:
    one, seen = make(keep=2), []
    for step in range(1, 8):
        one.save(state(step, best=step in (2, 5)))
        one.wait()
        seen.append(sound(tmp_path))
    assert seen == [[1], [1, 2], [2, 3], [2, 3, 4], [4, 5], [5, 6], [5, 6, 7]]


# --- frozen parameters ------------------------------------------------------------------------


class Frozen:
    """A network of which only the head learns."""

    def __init__(self, model: Any, head: nn.Module) -> None:
        self.model, self.head = model, head
        model.requires_grad_(False)
        head.requires_grad_(True)
        self.optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9)

    def train(self) -> None:
        for parameter in self.head.parameters():
            parameter.grad = torch.ones_like(parameter)
        self.optimizer.step()

    def track(self, one: Saver) -> Tracked:
        tracked = Tracked(one)
        tracked.add({"model": self.model, "optimizer": self.optimizer}, None)
        tracked.boundary()
        return tracked


STILL, BUFFERS, MOVING = (f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3))


def small() -> Frozen:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    return Frozen(model, model[2])


def saved(one: Saver, net: Frozen, tracked: Tracked, step: int) -> Path:
    net.train()
    one.save(State(step, tracked.capture(), {}, {}))
    one.wait()
    path = checkpoint.directory_of(one.folder, step)
    found = checkpoint.read(path).parts["model"].tensors
    assert all(torch.equal(found[name], t) for name, t in net.model.state_dict().items())
    assert len(found) == len(net.model.state_dict())
    return path


def inode(path: Path) -> int:
    return path.stat().st_ino


@pytest.mark.parametrize("mode", ["training", "evaluation"])
def test_what_is_frozen_is_written_once(tmp_path: Path, make: Make, mode: str) -> None:
    model = vision.load("torchvision.models").resnet18(weights=None)
    model.fc = nn.Linear(512, 2)
    net = Frozen(model.train(mode == "training"), model.fc)
    images = torch.randn(2, 3, 32, 32)
    one = make(keep=2)
    tracked = net.track(one)
    first = saved(one, net, tracked, 1)
    assert one.last is not None
    whole = one.last.written
    torch.save(
        {"model": model.state_dict(), "optimizer": net.optimizer.state_dict()}, tmp_path / "torch"
    )
    usual = (tmp_path / "torch").stat().st_size
    assert 0.98 * usual < whole < 1.02 * usual
    shard = inode(first / STILL)
    for step in (2, 3, 4):
        means = model.bn1.running_mean.clone()
        net.model(images)
        assert torch.equal(means, model.bn1.running_mean) == (mode == "evaluation")
        path = saved(one, net, tracked, step)
        assert inode(path / STILL) == shard
        assert one.last.written < 0.02 * usual
    assert checkpoint.steps_in(tmp_path) == [3, 4]
    assert (path / STILL).stat().st_nlink == 2
    assert one.costs.written < whole + 3 * 0.02 * usual


def names_by_file(path: Path) -> dict[str, set[str]]:
    found = {}
    for file_name in sorted(path.glob("model*.safetensors")):
        with safetensors.safe_open(file_name, framework="pt") as file:
            found[file_name.name] = set(file.keys())
    return found


def test_buffers_of_what_is_frozen_have_a_file_and_others_go_with_what_learns(make: Make) -> None:
    net = small()
    net.model.append(nn.BatchNorm1d(2))
    net.optimizer.add_param_group({"params": list(net.model[3].parameters())})
    net.model.register_buffer("step", torch.tensor(3))  # its module has no parameters of its own
    one = make()
    path = saved(one, net, net.track(one), 1)
    running = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    names = set(net.model.state_dict())
    assert names_by_file(path) == {
        STILL: {n for n in names if n[0] in "01"} - running,
        BUFFERS: running | {"step"},
        MOVING: {n for n in names if n[0] in "23"},
    }


def test_where_nothing_learns_there_are_two_files(make: Make) -> None:
    net = small()
    one = make()
    tracked = Tracked(one)
    tracked.add({"model": net.model}, None)
    one.save(State(1, tracked.capture(), {}, {}))
    one.wait()
    files = names_by_file(checkpoint.directory_of(one.folder, 1))
    assert list(files) == [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    assert list(files.values()) == [
        {name for name, _ in net.model.named_parameters()},
        {name for name, _ in net.model.named_buffers()},
    ]


def test_what_is_frozen_and_moves_all_the_same_is_written_anew(make: Make) -> None:
    net = small()
    one = make(keep=9)
    tracked = net.track(one)
    first = saved(one, net, tracked, 1)
    net.model(torch.randn(3, 5))  # moves the running mean
    second = saved(one, net, tracked, 2)
    assert inode(first / STILL) == inode(second / STILL)
    assert inode(first / BUFFERS) != inode(second / BUFFERS)
    net.model.eval()(torch.randn(3, 5))
    with torch.no_grad():
        net.model[0].weight.add_(1)
    third = saved(one, net, tracked, 3)
    assert inode(second / STILL) != inode(third / STILL)
    assert inode(second / BUFFERS) == inode(third / BUFFERS)


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing", "folder", "empty"])
def test_a_shard_that_was_damaged_meanwhile_is_written_anew(make: Make, damage: str) -> None:
    net = small()
    one = make(keep=9)
    tracked = net.track(one)
    shard = saved(one, net, tracked, 1) / STILL
    whole = shard.read_bytes()
    bad = {"flipped": whole[:-1] + bytes([whole[-1] ^ 1]), "cut": whole[:-1], "empty": b""}
    if damage in bad:
        shard.write_bytes(bad[damage])
    else:
        shard.unlink()
        if damage == "folder":
            shard.mkdir()
    second = saved(one, net, tracked, 2)
    assert (second / STILL).read_bytes() == whole
    assert not shard.exists() or inode(shard) != inode(second / STILL)
    with pytest.raises(DamagedError, match=STILL):
        checkpoint.verify(shard.parent)
    third = saved(one, net, tracked, 3)
    assert inode(second / STILL) == inode(third / STILL)


@pytest.mark.parametrize(
    "number", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV, errno.EMLINK]
)
def test_where_there_are_no_links_there_are_copies(
    make: Make, said: list[str], number: int
) -> None:
    net = small()
    one = make()
    tracked = net.track(one)
    first = saved(one, net, tracked, 1)
    assert one.last is not None
    whole = one.last.written
    with disk.using(refusing := Refusing(number, float("inf"), "link")):
        second = saved(one, net, tracked, 2)
    assert refusing.tries > 0
    assert one.last.written == whole
    assert inode(first / STILL) != inode(second / STILL)
    assert (first / STILL).read_bytes() == (second / STILL).read_bytes()
    assert said == []


def test_a_link_that_the_disk_fails_to_make_is_tried_again(
    make: Make, clock: Clock, said: list[str]
) -> None:
    net = small()
    one = make(clock)
    tracked = net.track(one)
    first = saved(one, net, tracked, 1)
    with disk.using(Refusing(errno.EIO, 1, "link")):
        second = saved(one, net, tracked, 2)
    assert inode(first / STILL) == inode(second / STILL)
    assert len(said) == len(clock.pauses) == 1


def test_what_is_unfrozen_later_is_saved(make: Make) -> None:
    net = small()
    one = make(keep=9)
    tracked = net.track(one)
    first = saved(one, net, tracked, 1)
    net.optimizer.add_param_group({"params": list(net.model[0].parameters())})
    with torch.no_grad():
        net.model[0].weight.add_(1)
    second = saved(one, net, tracked, 2)
    net.optimizer.add_param_group({"params": list(net.model[1].parameters())})
    third = saved(one, net, tracked, 3)
    assert (second / STILL).exists()
    assert (third / "model.safetensors").exists()
    assert not (third / STILL).exists()
    checkpoint.verify(first)


# --- opened by others -------------------------------------------------------------------------


def test_several_shards_open_by_their_index(make: Make) -> None:
    net = small()
    one = make()
    path = saved(one, net, net.track(one), 1)
    index = json.loads((path / "model.safetensors.index.json").read_text())
    found = {}
    for name, file_name in index["weight_map"].items():
        with safetensors.safe_open(path / file_name, framework="pt") as file:
            assert file.metadata() == {"format": "pt"}
            found[name] = file.get_tensor(name)
    expected = net.model.state_dict()
    assert sorted(found) == sorted(expected)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert set(index["weight_map"].values()) == {STILL, BUFFERS, MOVING}
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in expected.values())


def test_where_all_learns_one_file_opens_by_itself(make: Make) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    one = make()
    tracked = Tracked(one)
    optimizer = torch.optim.SGD(model.parameters())
    tracked.add({"model": model, "optimizer": optimizer}, None)
    one.save(State(1, tracked.capture(), {}, {}))
    one.wait()
    path = checkpoint.directory_of(one.folder, 1)
    names = sorted(p.name for p in path.glob("model*"))
    assert names == ["model.safetensors"]
    with safetensors.safe_open(path / names[0], framework="pt") as file:
        assert set(file.keys()) == set(model.state_dict())
        for name, tensor in model.state_dict().items():
            assert torch.equal(file.get_tensor(name), tensor)


# --- the end ----------------------------------------------------------------------------------


@pytest.mark.parametrize("settled", [True, False])
def test_closing_completes_what_is_under_way(tmp_path: Path, make: Make, settled: bool) -> None:
    one = make()
    one.save(state(1))
    if settled:
        one.settle()
    one.close()
    assert sound(tmp_path) == [1]
    one.close()  # twice is no error


def test_closing_ends_the_watch_and_the_thread(tmp_path: Path, make: Make) -> None:
    one = make()
    weight = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight])
    one.watch(optimizer)
    one.save(State(1, {"model": Captured(later={"w": weight})}, {}, {}))
    one.close()
    assert not optimizer._optimizer_step_pre_hooks
    assert not any(thread.is_alive() for thread in one._thread._threads)
    assert checkpoint.steps_in(tmp_path) == [1]


def test_an_optimizer_outlives_its_saver(tmp_path: Path) -> None:
    weight = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight])
    one = Saver(tmp_path)
    one.watch(optimizer)
    del one
    gc.collect()
    weight.grad = torch.ones(2)
    optimizer.step()


class Held(FaultyDisk):
    """A disk that holds the writer at one operation until the test lets it go on."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.hold, self.reached, self.may = at, threading.Event(), threading.Event()

    def done(self, _writing: object) -> None:
        self.reached.set()

    def _befall(self, name: str, path: Path) -> bool:
        if len(self.log) == self.hold:
            self.reached.set()
            self.may.wait()
        return super()._befall(name, path)


def test_giving_up_leaves_a_checkpoint_whole_or_nothing(tmp_path: Path) -> None:
    for at in itertools.count():
        folder = tmp_path / str(at)
        one = Saver(folder)
        held = Held(at)
        with disk.using(held):
            one.save(state(1))
            one.settle()
            assert one._writing is not None
            one._writing.add_done_callback(held.done)
            held.reached.wait()
            one.close(at_once=True)
            held.may.set()
            one._thread.shutdown()
            one.close()
        assert sound(folder) in ([], [1])
        assert left(folder) == []
        if len(held.log) <= at:
            break
    assert at > 10


def test_giving_up_ends_all_patience(tmp_path: Path) -> None:
    told = threading.Event()
    one = Saver(tmp_path, patience=20, say=lambda _line: told.set())
    with disk.using(refusing := Refusing(errno.ENOSPC, float("inf"))):
        one.save(state(1))
        one.settle()
        told.wait()
        one.close(at_once=True)
        one._thread.shutdown()
    assert refusing.tries <= 2
    assert list(tmp_path.iterdir()) == []


def test_giving_up_discards_a_copy_that_is_not_whole(tmp_path: Path) -> None:
    one = Saver(tmp_path)
    one.save(state(1))
    one.close(at_once=True)
    one._thread.shutdown()
    one.close()
    assert list(tmp_path.iterdir()) == []


# --- costs ------------------------------------------------------------------------------------


def test_costs_are_counted(tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    one = make(keep=9)
    ticks = itertools.count()
    fake = type("Ticking", (), {"monotonic": lambda: 0.0, "thread_time": lambda: 0.0})
    fake.perf_counter = lambda: float(next(ticks))  # type: ignore[attr-defined]
    monkeypatch.setattr(saver, "time", fake)
    for step in (1, 2, 3):
        one.save(state(step))
        one.settle()
        one.settle()
    one.wait()
    assert one.costs.saves == 3
    assert one.costs.written == sum(map(len, bytes_in(tmp_path).values()))
    # To begin, to settle, and to be waited for: by the next, and the last at the end.
    assert one.costs.blocked == 3 + 3 + 3


def test_a_save_that_failed_is_not_counted(make: Make) -> None:
    one = make(patience=0)
    with disk.using(Refusing(errno.ENOSPC, 1)):
        one.save(state(1))
        with pytest.raises(CannotWriteError):
            one.wait()
    assert (one.costs.saves, one.costs.written, one.last) == (0, 0, None)


def test_equal_states_are_equal_bytes(tmp_path: Path) -> None:
    nets = [small(), small()]
    for name, net in zip("ab", nets, strict=True):
        one = Saver(tmp_path / name)
        tracked = net.track(one)
        for step in (1, 2, 3):
            net.train()
            one.save(State(step, tracked.capture(), {"at": step}, {}))
        one.close()
    assert bytes_in(tmp_path / "a") == bytes_in(tmp_path / "b")
    assert store.steps_in(tmp_path / "a") == [2, 3]

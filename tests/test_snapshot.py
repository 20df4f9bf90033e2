"""Copies beside training: whatever changes whenever, what is published is one moment's state."""

from __future__ import annotations

import copy
import itertools
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn, optim
from torch.optim import swa_utils

from luthier.checkpoint import Captured, Saver, State, snapshot, steps_in, store
from luthier.errors import UnsupportedStateError
from luthier.files.image import Array, copy_bits
from luthier.run.tracked import Tracked


class Gate:
    """Holds the copying thread before each tensor until the test lets it go on."""

    def __init__(self) -> None:
        self._may, self._has = threading.Semaphore(0), threading.Semaphore(0)
        self._open = threading.Event()
        self.beside = 0  # tensors copied on the other thread

    def copy(self, target: Array, source: Array) -> None:
        if threading.current_thread() is threading.main_thread():
            copy_bits(target, source)
            return
        if not self._open.is_set():
            self._may.acquire()
        self.beside += 1
        copy_bits(target, source)
        self._has.release()

    def let(self, count: int) -> None:
        """Let some more tensors be copied, and wait until they are."""
        for _ in range(count):
            self._may.release()
        for _ in range(count):
            self._has.acquire()

    def open(self) -> None:
        """Let all go on: somebody waits for them."""
        self._open.set()
        self._may.release(1000)

    def close(self) -> None:
        """Hold them again; only while no copy is under way."""
        self._open.clear()
        self._may, self._has = threading.Semaphore(0), threading.Semaphore(0)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Give the gate, which opens when a copy is waited for and at no other moment."""
    made = Gate()
    settle = snapshot.Snapshot.settle

    def opening(self: snapshot.Snapshot) -> list[str]:
        made.open()
        return settle(self)

    monkeypatch.setattr(snapshot, "copy_bits", made.copy)
    monkeypatch.setattr(snapshot.Snapshot, "settle", opening)
    yield made
    made.open()


class World:
    """A generator and a critic in training, an average, and a rate that is a tensor."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model: Any = nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1))
        self.model[2].requires_grad_(False)
        self.critic = nn.Linear(3, 2)
        self.average: Any = swa_utils.AveragedModel(self.critic)
        learning = [p for p in self.model.parameters() if p.requires_grad]
        self.first = optim.SGD(learning, lr=torch.tensor(0.1), momentum=0.9, foreach=False)
        self.second = optim.Adam(self.critic.parameters(), lr=0.1)
        self.train()

    @property
    def tracked(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def forward(self) -> None:
        with torch.no_grad():
            self.model(torch.randn(2, 1, 3, 3))

    def backward(self) -> None:
        self.first.zero_grad()
        self.second.zero_grad()
        (
            self.model(torch.randn(2, 1, 3, 3)).sum() + self.critic(torch.randn(4, 3)).sum()
        ).backward()

    def train(self) -> None:
        self.backward()
        self.first.step()
        self.second.step()


def flat(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the bits of every tensor, and all that is plain."""
    found: dict[str, Any] = {}
    for part, captured in parts.items():
        found[part] = json.loads(json.dumps(captured.plain))
        later = {**getattr(captured, "later", {}), **getattr(captured, "now", {})}
        for name, tensor in (later or getattr(captured, "tensors", {})).items():
            plain = tensor.detach().resolve_conj().resolve_neg().clone().contiguous()
            raw = plain.flatten().view(torch.uint8).numpy().tobytes()
            found[f"{part}/{name}"] = str(tensor.dtype), tuple(tensor.shape), raw
    return found


class Scene:
    """A saver, and what was to be saved at each step."""

    def __init__(self, folder: Path, *, at_once: bool = False) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.saver = Saver(folder, keep=99, say=self.said.append, at_once=at_once)
        self.expected: dict[int, dict[str, Any]] = {}

    def save(self, step: int, parts: Mapping[str, Captured]) -> None:
        self.expected[step] = flat(parts)
        self.saver.save(State(step, parts, {}, {}))

    def check(self, step: int) -> None:
        """Compare what was published with what was the case when it was asked for."""
        assert flat(store.read(store.directory_of(self.folder, step)).parts) == self.expected[step]

    def check_all(self) -> None:
        self.saver.wait()
        for step in steps_in(self.folder):
            self.check(step)

    def close(self) -> None:
        self.saver.close(at_once=True)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.close()


# --- every change at every moment -------------------------------------------------------------


@torch.no_grad()
def every(world: World, change: Callable[[torch.Tensor], object]) -> None:
    modules = (world.model, world.critic, world.average)
    for parameter in itertools.chain(*(module.parameters() for module in modules)):
        change(parameter)


@torch.no_grad()
def swapped_data(world: World) -> None:
    for parameter in (*world.model.parameters(), *world.critic.parameters()):
        parameter.data = torch.full_like(parameter, 3)
        parameter.add_(1)


@torch.no_grad()
def swapped_for_evaluation(world: World) -> None:
    # As averages of one's own are evaluated: the weights go aside and come back.
    for parameter, mean in zip(world.critic.parameters(), world.average.parameters(), strict=True):
        parameter.data, mean.data = mean.data, parameter.data


def state_in_place(world: World) -> None:
    for optimizer in (world.first, world.second):
        for state in optimizer.state.values():
            for value in state.values():
                value.add_(1)


def written_by_numpy(world: World) -> None:
    every(world, lambda p: p.detach().numpy().fill(5))


@torch.no_grad()
def there_and_back(world: World) -> None:
    # While an average is validated, for instance.
    before = copy.deepcopy(world.critic.state_dict())
    world.critic.load_state_dict(world.average.module.state_dict())
    world.critic.load_state_dict(before)


def train_and_average(world: World) -> None:
    world.train()
    world.average.update_parameters(world.critic)


STEPS: dict[str, Callable[[World], object]] = {
    "first step": lambda w: w.first.step(),
    "second step": lambda w: w.second.step(),
    "both steps": lambda w: (w.first.step(), w.second.step()),
    "training and an average": train_and_average,
}
FORWARDS: dict[str, Callable[[World], object]] = {
    "nothing": lambda _w: None,
    "forward": World.forward,
    "backward": World.backward,
    "rate": lambda w: w.first.param_groups[0]["lr"].fill_(0.5),
    "rate of floats": lambda w: w.second.param_groups[0].update(lr=0.7),
    "buffers": lambda w: w.model[1].running_mean.add_(1),
    "count": lambda w: w.average.n_averaged.add_(1),
    "assigned": lambda w: w.critic.load_state_dict(World(1).critic.state_dict(), assign=True),
    "other state": lambda w: w.second.load_state_dict(World(1).second.state_dict()),
    "swapped data": swapped_data,
    "swapped for evaluation": swapped_for_evaluation,
    "half": lambda w: w.critic.half(),
    "channels last": lambda w: w.model.to(memory_format=torch.channels_last),
    "vector": lambda w: nn.utils.vector_to_parameters(torch.zeros(8), w.critic.parameters()),
    "deleted": lambda w: w.second.state.clear(),
}
CHANGES: dict[str, Callable[[World], object]] = {
    "average": lambda w: w.average.update_parameters(w.critic),
    "load_state_dict": lambda w: w.model.load_state_dict(World(1).model.state_dict()),
    "in place": lambda w: every(w, lambda p: p.add_(1)),
    "one of all": lambda w: w.model[2].bias.detach().zero_(),
    "one element": lambda w: every(w, lambda p: p.view(-1)[0].add_(1)),
    "detached": lambda w: every(w, lambda p: p.detach().mul_(2)),
    "initialised": lambda w: every(w, nn.init.ones_),
    "foreach": lambda w: every(w, lambda p: torch._foreach_add_([p], 1.0)),
    "out": lambda w: every(w, lambda p: torch.add(p, 1, out=p)),
    "there and back": there_and_back,
    "state in place": state_in_place,
    "data": lambda w: every(w, lambda p: p.data.add_(1)),
    "data copied": lambda w: every(w, lambda p: p.data.copy_(torch.zeros_like(p))),
    "data clamped": lambda w: every(w, lambda p: p.data.clamp_(-1e-3, 1e-3)),
    "numpy": written_by_numpy,
}
POSITIONS = 24  # more than there are tensors to be copied beside the training


def positions(parts: Mapping[str, Captured]) -> range:
    count = sum(len(captured.later) for captured in parts.values())
    assert count < POSITIONS + 10
    return range(count + 1)


def begin(folder: Path, gate: Gate, seed: int = 0) -> tuple[World, Tracked, Scene]:
    gate.close()
    world, scene = World(seed), Scene(folder)
    tracked = Tracked(scene.saver)
    tracked.add(world.tracked, None)
    world.backward()
    tracked.boundary()
    world.train()
    world.backward()
    return world, tracked, scene


def saves_at_every_position(folder: Path, gate: Gate) -> Iterator[tuple[World, Tracked, Scene]]:
    """Begin a save of which so many tensors are copied at first: none, one, and so on to all."""
    for position in itertools.count():
        world, tracked, scene = begin(folder / str(position), gate)
        parts = tracked.capture()
        if position not in positions(parts):
            scene.close()
            return
        scene.save(1, parts)
        gate.let(position)
        yield world, tracked, scene
        scene.close()


@pytest.mark.parametrize("name", STEPS)
def test_a_step_waits_for_the_copy(tmp_path: Path, gate: Gate, name: str) -> None:
    for world, tracked, scene in saves_at_every_position(tmp_path, gate):
        before = flat(tracked.capture())
        STEPS[name](world)
        assert flat(tracked.capture()) != before
        scene.saver.wait()
        assert not scene.saver.was_torn()
        scene.check(1)


@pytest.mark.parametrize("name", FORWARDS)
def test_what_is_copied_at_once_or_only_replaced_may_change(
    tmp_path: Path, gate: Gate, name: str
) -> None:
    for world, _tracked, scene in saves_at_every_position(tmp_path, gate):
        FORWARDS[name](world)
        scene.saver.wait()
        if scene.saver.was_torn():
            assert name == "swapped data"  # of whose memory the counter is blind
            assert steps_in(scene.folder) == []
        else:
            scene.check(1)


@pytest.mark.parametrize("name", CHANGES)
def test_after_any_other_change_the_moment_is_published_or_nothing(
    tmp_path: Path, gate: Gate, name: str
) -> None:
    torn = 0
    for world, tracked, scene in saves_at_every_position(tmp_path, gate):
        before = flat(tracked.capture())
        CHANGES[name](world)
        assert name == "there and back" or flat(tracked.capture()) != before
        scene.saver.wait()
        if not scene.saver.was_torn():
            scene.check(1)
            assert scene.said == []
            continue
        torn += 1
        assert steps_in(scene.folder) == []
        assert len(scene.said) == 1
        assert "changed outside of an optimizer's step" in scene.said[0]
        assert not scene.saver.was_torn()
        # The next is made at once: nothing is left to change too early.
        beside = gate.beside
        gate.close()
        scene.save(2, tracked.capture())
        assert gate.beside == beside
        CHANGES[name](world)
        scene.saver.wait()
        assert not scene.saver.was_torn()
        assert steps_in(scene.folder) == [2]
        scene.check(2)
        assert len(scene.said) == 1
    # What no optimizer holds is copied at once, and cannot tear.
    assert bool(torn) == (name != "average")


@pytest.mark.parametrize("name", [n for n in {**CHANGES, **STEPS, **FORWARDS} if n != "assigned"])
def test_a_copy_made_at_once_is_never_torn(tmp_path: Path, gate: Gate, name: str) -> None:
    world, tracked, scene = begin(tmp_path, gate)
    scene.saver.at_once = True
    for step in (1, 2):
        scene.save(step, tracked.capture())
        {**CHANGES, **STEPS, **FORWARDS}[name](world)
    scene.saver.wait()
    assert not scene.saver.was_torn()
    assert gate.beside == 0
    assert steps_in(tmp_path) == [1, 2]
    scene.check_all()
    scene.close()


def test_a_torn_copy_does_not_hinder_the_next(tmp_path: Path, gate: Gate) -> None:
    # Nobody has asked whether it was torn.
    world, tracked, scene = begin(tmp_path, gate)
    scene.save(1, tracked.capture())
    CHANGES["in place"](world)
    scene.save(2, tracked.capture())
    scene.check_all()
    assert steps_in(tmp_path) == [2]
    scene.close()


def test_nothing_is_published_before_the_copy_is_whole(tmp_path: Path, gate: Gate) -> None:
    _world, tracked, scene = begin(tmp_path, gate)
    parts = tracked.capture()
    scene.save(1, parts)
    for _ in positions(parts)[1:]:
        assert steps_in(tmp_path) == []
        gate.let(1)
    scene.saver.check()
    assert steps_in(tmp_path) == []  # nor before somebody has looked whether it was torn
    scene.check_all()
    assert steps_in(tmp_path) == [1]
    scene.close()


def test_training_goes_on_for_many_saves(scene: Scene) -> None:
    world = World()
    tracked = Tracked(scene.saver)
    tracked.add(world.tracked, None)
    for step in range(1, 30):
        tracked.boundary()
        world.train()
        world.average.update_parameters(world.critic)
        scene.save(step, tracked.capture())
        world.forward()
    scene.check_all()
    assert not scene.saver.was_torn()
    assert steps_in(scene.folder) == list(range(1, 30))
    assert scene.saver.costs.saves == 29


# --- buffers ----------------------------------------------------------------------------------


def test_an_image_that_is_being_written_is_not_overwritten(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    may, write, wait = threading.Event(), store.save, Saver.wait

    def held(*arguments: Any) -> Any:
        may.wait()
        return write(*arguments)

    def waiting(self: Saver) -> None:
        self.settle()
        may.set()
        wait(self)

    monkeypatch.setattr(store, "save", held)
    monkeypatch.setattr(Saver, "wait", waiting)
    weights = torch.zeros(1000)
    for step in range(1, 4):
        weights.fill_(step)
        may.clear()
        scene.save(step, {"model": Captured(later={"w": weights}, now={"b": weights + 1})})
        scene.saver.settle()  # it is being written now
    scene.check_all()
    assert steps_in(scene.folder) == [1, 2, 3]


def test_buffers_are_kept_from_one_save_to_the_next(scene: Scene) -> None:
    tensors = {"w": torch.zeros(3, 4), "b": torch.zeros(2)}
    images = []
    for step in (1, 2):
        scene.save(step, {"model": Captured(later=tensors)})
        images.append(scene.saver._copier._images["model.safetensors"])
    assert images[0] is images[1]
    scene.check_all()


def test_the_layout_may_change_from_one_save_to_the_next(scene: Scene) -> None:
    tensors: dict[str, torch.Tensor] = {"w": torch.rand(3, 4), "b": torch.rand(2)}
    changes: list[Callable[[], object]] = [
        lambda: None,
        lambda: tensors.update(new=torch.rand(2)),
        lambda: tensors.update(new=torch.rand(3)),
        lambda: tensors.update(new=torch.rand(3).double()),
        lambda: tensors.update(new=torch.rand(3).to(torch.bfloat16)),
        lambda: tensors.update(w=torch.rand(4, 3)),
        lambda: tensors.update(w=torch.rand(3, 4).t()),
        lambda: tensors.update(b=tensors.pop("b")),  # another order
        lambda: tensors.pop("new"),
        tensors.clear,
        lambda: tensors.update(w=torch.rand(3, 4)),
    ]
    parts: dict[str, Captured] = {}
    for step, change in enumerate(changes):
        change()
        still = frozenset(list(tensors)[: step % 3])
        parts["model"] = Captured(later=dict(tensors), still=still)
        if step == 4:
            parts["other"] = Captured(now={"x": torch.rand(1)}, plain={"step": step})
        if step == 8:
            del parts["other"]
        scene.save(step, parts)
        scene.saver.settle()
    scene.check_all()
    assert steps_in(scene.folder) == list(range(len(changes)))


def test_an_optimizer_that_is_no_longer_watched_does_not_wait(tmp_path: Path, gate: Gate) -> None:
    world, tracked, scene = begin(tmp_path, gate)
    scene.save(1, tracked.capture())
    scene.saver.close(at_once=True)
    world.train()
    assert steps_in(tmp_path) == []


def test_a_copy_that_fails_is_raised_and_the_next_succeeds(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {"model": Captured(later={"w": torch.ones(3)})}
    with monkeypatch.context() as patched:

        def fail(*_arrays: Array) -> None:
            raise MemoryError("no room")

        patched.setattr(snapshot, "copy_bits", fail)
        scene.save(1, parts)
        with pytest.raises(MemoryError):
            scene.saver.wait()
    assert steps_in(scene.folder) == []
    scene.save(2, parts)
    scene.check_all()
    assert steps_in(scene.folder) == [2]


# --- every kind of tensor ---------------------------------------------------------------------


def kinds() -> dict[str, torch.Tensor]:
    base = torch.arange(24, dtype=torch.float32).view(2, 3, 2, 2)
    numbers = torch.randn(3, 4, dtype=torch.complex64)
    with torch.inference_mode():
        inferred = torch.ones(3) * 2
    return {
        "contiguous": base,
        "channels last": base.to(memory_format=torch.channels_last),
        "transposed": base.transpose(0, 3),
        "strided": base[:, ::2, 1:, :1],
        "expanded": torch.ones(3, 1).expand(3, 5),
        "offset": base.view(-1)[5:],
        "empty": torch.empty(0),
        "empty matrix": torch.empty(3, 0, 2),
        "no dimension": torch.tensor(-0.0),
        "conjugate": numbers.conj(),
        "conjugate transposed": numbers.mH,
        "negative view": numbers.conj().imag,
        "real view": numbers.real,
        "strange NaN": torch.tensor([0x7FC12345, -1], dtype=torch.int32).view(torch.float32),
        "inference": inferred,
        "parameter": nn.Parameter(torch.randn(2)),
        "needs gradient": torch.randn(2, requires_grad=True) * 2,
        "bool": torch.tensor([True, False]),
        "text like": torch.ones(2, 3).to(torch.float8_e4m3fn).t(),
    } | {
        str(dtype): torch.randint(0, 100, (3, 5)).to(dtype).t()
        for dtype in (
            *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64),
            *(torch.float8_e5m2, torch.int64, torch.int32, torch.int16, torch.int8),
            *(torch.uint64, torch.uint32, torch.uint16, torch.uint8, torch.bool),
        )
    }


def captured(when: str, tensors: dict[str, torch.Tensor]) -> Captured:
    return Captured(later=tensors) if when == "later" else Captured(now=tensors)


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("when", ["later", "now"])
def test_every_kind_of_tensor_is_saved_to_the_bit(tmp_path: Path, at_once: bool, when: str) -> None:
    scene = Scene(tmp_path, at_once=at_once)
    tensors = kinds()
    assert tensors["conjugate"].is_conj()
    assert tensors["negative view"].is_neg()
    scene.save(1, {"model": captured(when, tensors)})
    scene.check_all()
    assert steps_in(tmp_path) == [1]
    scene.close()


def test_a_module_of_inference_mode_is_saved(scene: Scene) -> None:
    with torch.inference_mode():
        model = nn.Linear(2, 2)
    assert model.weight.is_inference()
    tracked = Tracked(scene.saver)
    tracked.add({"model": model}, None)
    scene.save(1, tracked.capture())
    with torch.inference_mode():
        model.weight.add_(1)
    scene.check_all()
    assert steps_in(scene.folder) == [1]


def test_tied_weights_are_saved_under_each_name(scene: Scene) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    tracked = Tracked(scene.saver)
    tracked.add({"model": model}, None)
    scene.save(1, tracked.capture())
    scene.check_all()
    found = store.read(store.directory_of(scene.folder, 1)).parts["model"].tensors
    assert torch.equal(found["0.weight"], found["1.weight"])


@pytest.mark.filterwarnings("ignore")  # torch warns of most of these kinds
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("when", ["later", "now"])
@pytest.mark.parametrize("kind", ["sparse", "csr", "nested", "complex128", "meta", "mkldnn"])
def test_a_tensor_that_no_file_can_hold_is_refused_by_name(
    tmp_path: Path, kind: str, when: str, at_once: bool
) -> None:
    tensor = {
        "sparse": lambda: torch.eye(2).to_sparse(),
        "csr": lambda: torch.eye(2).to_sparse_csr(),
        "nested": lambda: torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]),
        "complex128": lambda: torch.ones(2, dtype=torch.complex128),
        "meta": lambda: torch.ones(2, device="meta"),
        "mkldnn": lambda: torch.ones(2).to_mkldnn(),
    }[kind]()
    scene = Scene(tmp_path, at_once=at_once)
    good = {
        "model": Captured(later={"w": torch.ones(2)}),
        "other": captured(when, {"a": torch.ones(1), "model.strange": torch.ones(2)}),
    }
    scene.save(1, good)
    bad = captured(when, {"a": torch.ones(1), "model.strange": tensor})
    with pytest.raises(UnsupportedStateError, match=r"model\.strange"):
        scene.saver.save(State(2, {**good, "other": bad}, {}, {}))
    scene.save(3, good)
    scene.check_all()
    assert steps_in(tmp_path) == [1, 3]
    scene.close()

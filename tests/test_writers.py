"""Several processes write a checkpoint: each its share, and it is there whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

# A forked process would import these for itself, which takes seconds.
import torch.distributed.fsdp
import torch.distributed.tensor
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch.distributed import HashStore

import luthier
from conftest import LENET
from faults import die
from luthier import checkpoint
from luthier.checkpoint import Captured, Saver, State, layout
from luthier.checkpoint.layout import deal, files_of
from luthier.checkpoint.writers import Follower, Leader, Portion
from luthier.cli.main import main
from luthier.distributed.board import Board
from luthier.errors import CannotWriteError, DivergedError, PeerError
from luthier.files import disk
from luthier.files.image import Image
from luthier.report import Console
from ranks import ended, started, together
from test_distributed import run
from test_exactness import bits, differences

SMALL: dict[str, Any] = {"model": LENET, "image_size": 32, "batch_size": 5, "workers": 0}
SMALL |= {"epochs": 1, "weights": "none", "precision": "fp32", "save_every": "1 steps"}
SMALL |= {"shard": True, "optimizer": "adamw", "ema": 0.9}

GROUPS = st.lists(
    st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.integers(0, 1000)), max_size=5
)


# --- who writes what ------------------------------------------------------------------------------


@given(GROUPS, st.integers(1, 9), st.integers(1, 3000), st.randoms(use_true_random=False))
def test_every_tensor_is_dealt_once_evenly_and_to_the_same_by_all(
    groups: list[dict[str, int]], writers: int, least: int, random: Any
) -> None:
    dealt = deal(groups, writers, least)
    loads = [0] * writers
    for group, files in zip(groups, dealt, strict=True):
        assert sorted(name for _, names in files for name in names) == sorted(group)
        assert [writer for writer, _ in files] == sorted({writer for writer, _ in files})
        assert len(files) <= max(1, sum(group.values()) // least)
        for writer, names in files:
            assert names
            loads[writer] += sum(group[name] for name in names)
    largest = max((size for group in groups for size in group.values()), default=0)
    assert max(loads) - min(loads) <= largest + 2 * least
    if least == 1:
        assert max(loads) - min(loads) <= max(largest, 1)
    shuffled = [dict(random.sample(list(group.items()), len(group))) for group in groups]
    assert deal(shuffled, writers, least) == dealt
    # What comes first does not depend on what comes after.
    assert deal(groups[:1], writers, least) == dealt[:1]


def test_what_stands_still_is_where_it_was_whatever_else_there_is() -> None:
    trunk = {f"trunk.{n}": torch.zeros(1 << 20) for n in range(5)}
    head = {f"head.{n}": torch.zeros(1 << 20) for n in range(2)}
    model = Captured(later={**trunk, **head}, now={"mean": torch.zeros(3)}, still=frozenset(trunk))
    moments = Captured(later={f"momentum/{name}": tensor for name, tensor in head.items()})
    before = files_of({"model": model, "optimizer": Captured()}, 3)
    after = files_of({"model": model, "optimizer": moments}, 3)
    assert list(before["model"]) == [f"model-0000{n}-of-00005.safetensors" for n in range(1, 6)]
    assert before["optimizer"] == {}
    for name, file in before["model"].items():
        assert after["model"][name].sizes == file.sizes
        assert after["model"][name].writer == file.writer
    assert len(after["optimizer"]) == 2
    (small,) = files_of({"small": Captured(later={n: torch.zeros(9) for n in "abc"})}, 3)["small"]
    assert small == "small.safetensors"


# --- what they tell each other --------------------------------------------------------------------


def boards(size: int, patience: float = 20) -> list[Board]:
    store = HashStore()
    return [Board(store, rank, size, patience) for rank in range(size)]


def at_once(*functions: Callable[[], object]) -> list[Any]:
    """Call functions on threads of their own; return what each returns, or the error it raises."""
    found: list[Any] = [None] * len(functions)

    def call(number: int) -> None:
        try:
            found[number] = functions[number]()
        except Exception as error:
            found[number] = error

    threads = [threading.Thread(target=call, args=(n,)) for n in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def refuse(number: int) -> NoReturn:
    raise OSError(number, os.strerror(number))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.sampled_from([[True, False], [False, True], [True, True]])), st.booleans())
def test_all_write_until_all_succeed_and_then_hear_that_it_is_published(
    tries: list[list[bool]], again: bool
) -> None:
    first, *others = boards(3)
    lead, wrote = Leader(first), list[tuple[int, str]]()
    tries = [*tries, [False, False]]

    def publish() -> object:
        with lead.ending():
            for number, refused in enumerate(tries):
                lead.begin(f"try {number}")
                if not any(refused):
                    break
                rank = refused.index(True) + 1
                with pytest.raises(OSError, match=rf"device \(rank {rank}\)") as caught:
                    lead.portions()
                assert caught.value.errno == errno.ENOSPC
            return lead.portions()

    def serve(board: Board, follower: Follower) -> object:
        def write(directory: str) -> Portion:
            wrote.append((board.rank, directory))
            if tries[int(directory.split()[1])][board.rank - 1]:
                refuse(errno.ENOSPC)
            return Portion({f"{board.rank}": {"bytes": 1, "sha256": directory}}, board.rank)

        return follower.serve(write)

    followers = [Follower(board) for board in others]
    for _save in range(1 + again):
        del wrote[:]
        jobs = [lambda b=b, f=f: serve(b, f) for b, f in zip(others, followers, strict=True)]
        told, *own = at_once(publish, *jobs)
        assert told == own
        assert sorted(wrote) == sorted((r, f"try {n}") for r in (1, 2) for n in range(len(tries)))
    store: Any = first._store
    assert store.num_keys() == 1  # the last word, which nobody has answered


def test_who_must_not_keep_its_tensors_says_why_and_the_others_that_it_did() -> None:
    first, *others = boards(3)
    lead, wrote = Leader(first), Portion({}, 0)

    def publish() -> None:
        with lead.ending():
            lead.begin("here")
            lead.portions()

    def diverged(_directory: str) -> Portion:
        raise DivergedError("NaN")

    found = at_once(
        publish,
        lambda: Follower(others[0]).serve(lambda _: wrote),
        lambda: Follower(others[1]).serve(diverged),
    )
    assert [type(error) for error in found] == [PeerError, PeerError, DivergedError]
    assert str(found[0]) == "rank 2 has failed"


def test_what_was_there_already_is_not_written() -> None:
    first, other = boards(2)
    with Leader(first).ending():
        pass
    assert Follower(other).serve(lambda _: refuse(errno.EIO)) is None


def test_who_says_nothing_is_waited_for_with_patience_or_until_given_up() -> None:
    first, other = boards(2, patience=0.2)
    lead = Leader(first)
    lead.begin("here")
    with pytest.raises(PeerError, match=r"said nothing for 0 s\n.*LUTHIER_PATIENCE"):
        lead.portions()
    (patient, _) = boards(2, patience=1e6)
    patient.give_up()
    patient.say("there", 1)
    assert patient.hear("there") == 1
    with pytest.raises(PeerError, match="not waited for any longer"):
        patient.hear("not there")
    with pytest.raises(PeerError, match="said nothing"):
        Follower(other)._board.hear("never")


class Late(disk.Disk):
    """Gives a checkpoint its name only when another saver has had time to be done before that."""

    def __init__(self) -> None:
        self.others_done = threading.Event()
        self.was_too_late = False

    def rename(self, source: Path, target: Path) -> None:
        self.was_too_late = self.others_done.wait(0.5)
        super().rename(source, target)


@pytest.mark.usefixtures("cut_files")
def test_a_save_is_done_in_all_only_when_the_checkpoint_has_its_name(tmp_path: Path) -> None:
    tensors = {name: torch.full((3, 5), float(number)) for number, name in enumerate("abcd")}
    state = State(1, {"model": Captured(later=tensors)}, {}, {})
    savers = [Saver(tmp_path, at_once=True, board=board) for board in boards(2)]

    def save(saver: Saver) -> None:
        saver.save(state)
        saver.wait()
        if saver is savers[1]:
            late.others_done.set()

    with disk.using(late := Late()):
        assert at_once(*(lambda s=s: save(s) for s in savers)) == [None, None]
    assert not late.was_too_late
    index = json.loads((tmp_path / "step-00000001/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 4 * 3 * 5 * 4
    assert set(index["weight_map"].values()) == {
        f"model-0000{n}-of-00002.safetensors" for n in "12"
    }
    for name, file in index["weight_map"].items():
        with safe_open(tmp_path / "step-00000001" / file, "pt") as opened:
            assert torch.equal(opened.get_tensor(name), tensors[name])
    for saver in savers:
        saver.close()


# --- real processes -------------------------------------------------------------------------------


@pytest.fixture
def cut_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "_LEAST", 1)


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of three processes whose disk does its work."""
    out = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "_LEAST", 1)
        run(3, photos, out, **SMALL)
    return out


class Watched(disk.Disk):
    """Tells which files of checkpoints were written, and which linked, by this process."""

    def __init__(self) -> None:
        self.made: dict[str, list[str]] = {}
        self.linked: dict[str, list[str]] = {}

    def create(self, path: Path) -> int:
        self.made.setdefault(step_of(path), []).append(path.name)
        return super().create(path)

    def link(self, source: Path, target: Path) -> None:
        self.linked.setdefault(step_of(target), []).append(target.name)
        super().link(source, target)


def step_of(file: Path) -> str:
    """Return the step of the checkpoint into whose new directory a file is written."""
    return file.parent.name.removeprefix(".tmp-step-")[:8]


@pytest.mark.usefixtures("cut_files")
@pytest.mark.parametrize("size", [2, 3])
def test_each_writes_its_share_and_links_what_stands_still(
    photos: Path, tmp_path: Path, size: int
) -> None:
    out, bytes_of = tmp_path / "run", Image.size.fget
    first = luthier.finetune(
        photos, out=tmp_path / "w", console=Console(quiet=True), **SMALL | {"shard": False}
    )
    knobs = SMALL | {"strategy": "frozen", "weights": str(first.model), "keep": 9}

    def job(_rank: int) -> int:
        held = {}
        made = Image.__init__

        def watched(image: Image, *given: Any, **options: Any) -> None:
            made(image, *given, **options)
            held[id(image)] = bytes_of(image)

        Image.__init__ = watched  # type: ignore[method-assign]
        seen = Watched()
        with disk.using(seen):
            luthier.finetune(photos, out=out, console=Console(quiet=True), **knobs)
        print(json.dumps({"made": seen.made, "linked": seen.linked, "held": held}))
        return 0

    told = [json.loads(text) for text in together(size, job)]
    one, two = out / "checkpoints" / "step-00000001", out / "checkpoints" / "step-00000002"
    files = {path.name for path in one.glob("*.safetensors")}
    made = [set(who["made"]["00000001"]) for who in told]
    assert set().union(*made) == {path.name for path in one.iterdir()}
    assert sum(map(len, made)) == len(set().union(*made))
    assert all(not names - files for names in made[1:])
    shares = [sum((one / name).stat().st_size for name in names & files) for names in made]
    largest = max(t.nbytes for t in checkpoint.read(one).part("model").tensors.values())
    assert max(shares) - min(shares) <= largest + 30_000  # headers
    for who, share in zip(told, shares, strict=True):
        assert sum(who["held"].values()) == share  # laid out once, and nothing else
    trunk = {f.name for f in files_with(one, "model", "conv1.weight", "fc1.weight")}
    linked = [set(who["linked"]["00000002"]) for who in told]
    assert trunk <= set().union(*linked)
    for name in trunk:
        assert (one / name).stat().st_ino == (two / name).stat().st_ino
    assert main(["verify", str(out)]) == 0


def files_with(path: Path, part: str, *names: str) -> set[Path]:
    index = json.loads((path / f"{part}.safetensors.index.json").read_text(encoding="utf-8"))
    return {path / index["weight_map"][name] for name in names}


class Killing(Watched):
    """Kills this process when it has begun a file of one checkpoint, before the file is whole."""

    def __init__(self, step: str) -> None:
        super().__init__()
        self._step = step
        self._last: Path | None = None

    def create(self, path: Path) -> int:
        self._last = path
        return super().create(path)

    def write(self, handle: int, content: memoryview) -> int:
        if self._last is not None and step_of(self._last) == self._step:
            super().write(handle, content[:10])
            die()
        return super().write(handle, content)


@pytest.mark.usefixtures("cut_files")
@pytest.mark.parametrize("killed", [0, 1])
def test_when_one_is_killed_as_it_writes_nothing_is_published_and_the_next_start_goes_on(
    photos: Path, tmp_path: Path, whole: Path, killed: int
) -> None:
    out = tmp_path / "run"

    def job(rank: int) -> int:
        with disk.using(Killing("00000003") if rank == killed else disk.Disk()):
            luthier.finetune(photos, out=out, console=Console(quiet=True), **SMALL)
        return 0

    statuses = [status for status, _, _ in ended(started(3, job))]
    assert statuses.pop(killed) == -signal.SIGKILL
    assert 0 not in statuses
    assert checkpoint.steps_in(out / "checkpoints") == [1, 2]
    together(3, lambda _rank: luthier.resume(out, console=Console(quiet=True)) and 0)
    assert differences(bits(whole), bits(out)) == []
    assert list(out.rglob(".tmp-*")) == []


class Full(Watched):
    """Has no room for files of one checkpoint, some times."""

    def __init__(self, step: str, times: float) -> None:
        super().__init__()
        self._step, self._left = step, times

    def create(self, path: Path) -> int:
        if step_of(path) == self._step and self._left > 0:
            self._left -= 1
            refuse(errno.ENOSPC)
        return super().create(path)


@pytest.mark.usefixtures("cut_files")
def test_when_the_disk_of_one_is_full_all_try_again(
    photos: Path, tmp_path: Path, whole: Path
) -> None:
    out = tmp_path / "run"

    def job(rank: int) -> int:
        with disk.using(Full(f"0000000{rank + 1}", 1)):
            luthier.finetune(photos, out=out, console=Console(quiet=True), **SMALL)
        return 0

    together(3, job)
    said = (out / "log.txt").read_text(encoding="utf-8")
    for where in ("", " (rank 1)", " (rank 2)"):
        assert f"No space left on device{where}; trying again for 600 s" in said
    assert differences(bits(whole), bits(out)) == []
    assert list(out.rglob(".tmp-*")) == []


@pytest.mark.usefixtures("cut_files")
def test_when_the_disk_of_one_stays_full_the_first_says_so_and_nothing_is_published(
    photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"

    def job(rank: int) -> int:
        known = CannotWriteError if rank == 0 else PeerError
        full = Full("00000002", float("inf")) if rank == 1 else disk.Disk()
        with pytest.raises(known) as caught, disk.using(full):
            luthier.finetune(
                photos, out=out, console=Console(quiet=True), **SMALL | {"disk_patience": 0.0}
            )
        print(caught.value)
        return 0

    first, *_ = together(3, job)
    assert "checkpoint 2 cannot be written" in first
    assert "No space left on device (rank 1); the last good checkpoint is" in first
    assert checkpoint.steps_in(out / "checkpoints") == [1]
    assert list(out.rglob(".tmp-*")) == []

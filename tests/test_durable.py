"""Durable writes: at every operation and fault, the old is there or the new, whole."""

from __future__ import annotations

import errno
import itertools
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from faults import ERRORS, KILLS, FaultyDisk, Victims, refused
from luthier.files import disk, durable

Tree = dict[str, bytes]


def tree(root: Path) -> Tree:
    """Give the files that have their final names."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not unfinished(path, root)
    }


def unfinished(path: Path, root: Path) -> bool:
    return any(part.startswith(durable.TEMPORARY) for part in path.relative_to(root).parts)


def leftovers(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if unfinished(path, root)]


def sweep_all(root: Path) -> None:
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        durable.sweep(folder)


def prepare(root: Path) -> None:
    """Make what every scenario begins with: a file, two directories, what a kill left."""
    (root / "text").write_text("old")
    for name in ("step-1", "step-2"):
        (root / name).mkdir()
        (root / name / "weights").write_text(f"weights of {name}")
        (root / name / "manifest").write_text(f"manifest of {name}")
    (root / ".tmp-step-0").mkdir()
    (root / ".tmp-step-0" / "half").write_text("half")
    (root / ".tmp-text").write_text("half")


def replace_text(root: Path) -> None:
    durable.write_text(root / "text", "new ü")


def text_in_a_new_folder(root: Path) -> None:
    durable.write_text(root / "deep" / "deeper" / "text", "new")


def replace_file(root: Path) -> None:
    with durable.new_file(root / "text") as temporary:
        temporary.write_text("new, by ordinary means")


def publish(root: Path) -> None:
    with durable.new_directory(root / "step-3") as new:
        if not durable.link(root / "step-2" / "weights", new / "weights"):
            durable.write_bytes(new / "weights", b"weights of step-2")
        durable.write_bytes(new / "optimizer", b"in ", bytearray(), memoryview(b"two parts"))
        (new / "ordinary").write_text("by ordinary means")
        durable.write_bytes(new / "manifest", b"manifest of step-3")


def publish_in_a_new_folder(root: Path) -> None:
    with durable.new_directory(root / "deep" / "step-3") as new:
        durable.write_bytes(new / "manifest", b"manifest of step-3")


def remove(root: Path) -> None:
    durable.remove_directory(root / "step-1")


def rotate(root: Path) -> None:
    if not (root / "step-3").exists():
        publish(root)
    if (root / "step-1").exists():
        remove(root)


def sweep(root: Path) -> None:
    durable.sweep(root)


@dataclass(frozen=True)
class Scenario:
    """Something that changes a disk.

    Attributes:
        act: what is done.
        removes: whether it removes things, and so leaves something unfinished when it fails.
    """

    act: Callable[[Path], None]
    removes: bool = False


SCENARIOS = [
    Scenario(replace_text),
    Scenario(text_in_a_new_folder),
    Scenario(replace_file),
    Scenario(publish),
    Scenario(publish_in_a_new_folder),
    Scenario(remove, removes=True),
    Scenario(rotate, removes=True),
    Scenario(sweep, removes=True),
]
WITHOUT_WRITES = (remove, sweep, replace_file)  # none that go through the disk
each_scenario = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.act.__name__)


def fresh(tmp_path: Path, number: int) -> Path:
    root = tmp_path / str(number)
    root.mkdir()
    prepare(root)
    return root


def allowed(scenario: Scenario, tmp_path: Path) -> tuple[Tree, Tree, Tree, int]:
    """Give what may be there: before, in the middle and after; and how many operations it takes."""
    root = tmp_path / "whole"
    root.mkdir()
    prepare(root)
    before = tree(root)
    with disk.using(counting := FaultyDisk()):
        scenario.act(root)
    after = tree(root)
    middle = {**before, **after} if scenario.act is rotate else after
    return before, middle, after, len(counting.log)


def check_next_start(root: Path, scenario: Scenario, after: Tree) -> None:
    """Sweep as a start does, which changes nothing that has its name, and do it once more."""
    found = tree(root)
    sweep_all(root)
    assert tree(root) == found, root
    assert not leftovers(root), root
    if found != after:
        scenario.act(root)
    assert tree(root) == after, root


@pytest.mark.parametrize("fault", ERRORS)
@each_scenario
def test_after_every_error_the_old_is_there_or_the_new(
    tmp_path: Path, scenario: Scenario, fault: str
) -> None:
    before, middle, after, count = allowed(scenario, tmp_path)
    fired = 0
    for at in range(count):
        root = fresh(tmp_path, at)
        known = set(leftovers(root))
        raised = refused(faulty := FaultyDisk(fault, at), scenario.act, root)
        where = faulty.log[at]
        assert raised == (ERRORS[fault] if faulty.fired else None), where
        found = tree(root)
        assert found in ((before, middle, after) if raised else (after,)), where
        assert not faulty.handles, where
        if not scenario.removes and fault != "dead":
            assert set(leftovers(root)) == known, where
        check_next_start(root, scenario, after)
        fired += faulty.fired
    assert fired or (fault in ("full", "short") and scenario.act in WITHOUT_WRITES)


@pytest.mark.parametrize("fault", KILLS)
@each_scenario
def test_after_every_kill_and_power_failure_the_old_is_there_or_the_new(
    tmp_path: Path, scenario: Scenario, fault: str, victims: Victims
) -> None:
    before, middle, after, count = allowed(scenario, tmp_path)
    kills = 0
    for at in itertools.count():
        root, aside = fresh(tmp_path, at), tmp_path / f"aside-{at}"
        aside.mkdir()
        killed = victims.run(scenario.act.__name__, root, aside, fault, at)
        found = tree(root)
        assert found in ((before, middle, after) if at < count else (after,)), at
        assert killed == (at <= count) or fault == "kill in write", at
        check_next_start(root, scenario, after)
        kills += killed
        if at > count:
            break
    assert kills or scenario.act in WITHOUT_WRITES


def test_sweeping_flushes_what_a_killed_writer_had_finished(tmp_path: Path) -> None:
    prepare(tmp_path)
    with disk.using(noting := FaultyDisk()):
        durable.sweep(tmp_path)
    assert noting.log[-1] == ("sync_directory", tmp_path.name)


def test_each_file_is_flushed_once_and_before_its_name(tmp_path: Path) -> None:
    prepare(tmp_path)
    with disk.using(noting := FaultyDisk()):
        publish(tmp_path)
    log = [(name, "" if path.startswith(durable.TEMPORARY) else path) for name, path in noting.log]
    of_files = [(name, path) for name, path in log if name.startswith("sync_f") or name == "sync"]
    assert of_files == [("sync", "optimizer"), ("sync", "manifest"), ("sync_file", "ordinary")]
    assert log[-3:] == [
        ("sync_directory", ""),
        ("rename", "step-3"),
        ("sync_directory", tmp_path.name),
    ]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP])
def test_a_file_system_that_flushes_no_directories_is_written_to(tmp_path: Path, code: int) -> None:
    class Refusing(disk.Disk):
        def sync_directory(self, path: Path) -> None:
            raise OSError(code, path.name)

    prepare(tmp_path)
    with disk.using(Refusing()):
        rotate(tmp_path)
    assert sorted(p.name for p in tmp_path.glob("step-*")) == ["step-2", "step-3"]


def test_a_file_that_cannot_be_flushed_is_an_error_whatever_the_reason(tmp_path: Path) -> None:
    class Refusing(disk.Disk):
        def sync(self, handle: int) -> None:
            raise OSError(errno.EINVAL, str(handle))

    with disk.using(Refusing()), pytest.raises(OSError, match="Errno 22"):
        durable.write_text(tmp_path / "text", "new")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "code", ["EPERM", "EACCES", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EXDEV", "EMLINK"]
)
def test_where_there_are_no_hard_links_the_caller_is_told(tmp_path: Path, code: str) -> None:
    class Refusing(disk.Disk):
        def link(self, source: Path, target: Path) -> None:  # noqa: ARG002
            raise OSError(getattr(errno, code), code)

    prepare(tmp_path)
    with disk.using(Refusing()):
        publish(tmp_path)
    assert (tmp_path / "step-3" / "weights").read_text() == "weights of step-2"
    assert (tmp_path / "step-3" / "weights").stat().st_nlink == 1


def test_a_link_is_the_same_file_and_outlives_the_first_name(tmp_path: Path) -> None:
    prepare(tmp_path)
    publish(tmp_path)
    weights = tmp_path / "step-3" / "weights"
    assert weights.samefile(tmp_path / "step-2" / "weights")
    durable.remove_directory(tmp_path / "step-2")
    assert weights.read_text() == "weights of step-2"


def test_a_link_to_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        durable.link(tmp_path / "missing", tmp_path / "new")


def test_writers_of_the_same_name_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "step-1"
    with durable.new_file(tmp_path / "text") as one, durable.new_file(tmp_path / "text") as two:
        one.write_text("first entered, last left")
        two.write_text("last entered, first left")
    assert (tmp_path / "text").read_text() == "first entered, last left"

    def publish_inside_of_each_other() -> None:
        with durable.new_directory(path) as one:
            durable.write_bytes(one / "a", b"one")
            with durable.new_directory(path) as two:
                durable.write_bytes(two / "a", b"two")

    with pytest.raises(OSError, match=str(path)):
        publish_inside_of_each_other()
    assert tree(tmp_path) == {"text": b"first entered, last left", "step-1/a": b"two"}
    assert not leftovers(tmp_path)


def test_writing_over_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(FileExistsError):
        durable.write_bytes(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_text() == "old"


def test_items_of_any_size_and_shape_are_written_as_bytes(tmp_path: Path) -> None:
    content = memoryview(bytes(range(24)))
    empty = memoryview(b"").cast("B")
    durable.write_bytes(tmp_path / "a", content.cast("I", (2, 3)), empty, content)
    assert (tmp_path / "a").read_bytes() == bytes(content) * 2


def test_new_files_and_folders_have_the_rights_of_ordinary_ones(tmp_path: Path) -> None:
    durable.write_text(tmp_path / "new" / "a", "")
    (tmp_path / "ordinary").mkdir()
    (tmp_path / "ordinary" / "a").touch()
    for path in (tmp_path / "new", tmp_path / "new" / "a"):
        same = tmp_path / "ordinary" / path.relative_to(tmp_path / "new")
        assert path.stat().st_mode == same.stat().st_mode


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    prepare(tmp_path)
    (tmp_path / ".tmp-step-0" / "link").symlink_to(tmp_path / "step-1")
    (tmp_path / ".tmp-link").symlink_to(tmp_path / "step-2")
    before = tree(tmp_path)
    durable.sweep(tmp_path)
    assert tree(tmp_path) == before
    assert not leftovers(tmp_path)


def test_free_bytes_are_those_of_the_nearest_folder_that_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    class Usage:
        free = 17

    def usage(path: Path) -> Usage:
        asked.append(path)
        return Usage()

    assert durable.free_bytes(tmp_path) > 0
    monkeypatch.setattr("shutil.disk_usage", usage)
    assert durable.free_bytes(tmp_path / "not" / "there") == 17
    monkeypatch.chdir(tmp_path)
    assert durable.free_bytes(Path("not")) == 17
    assert asked == [tmp_path, tmp_path]


def test_the_last_disk_is_back_after_an_error() -> None:
    before = disk.current()

    def fail() -> None:
        with disk.using(FaultyDisk()):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert disk.current() is before


def test_durable_writes_need_no_torch() -> None:
    program = "import sys, luthier.files.durable; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0

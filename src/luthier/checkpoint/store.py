"""Checkpoint directories: each appears whole or not at all, and never changes after.

The format is specified in ``docs/format.md``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import mmap
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.checkpoint.parts import Saved
from luthier.checkpoint.tree import unpack
from luthier.checkpoint.writers import Leader, Portion
from luthier.errors import DamagedError
from luthier.files import durable
from luthier.files.image import Image
from luthier.files.tensors import parse

FORMAT = 1
_PREFIX = "step-"
_MANIFEST = "manifest.json"
_STATE = "state.json"
_SEAL = "sha256"  # of the manifest without this line
_ROOM = 1 << 20  # bytes for directories and small files
_OF_STRANGE_JSON = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Content:
    """What a checkpoint holds, ready to be written.

    Attributes:
        files: those that this process writes, by name.
        parts: for each part ("model", "optimizer", …) its files in order, whoever writes them, and
            the bytes of each tensor in them.
        state: text of ``state.json``: equal for equal states.
        facts: plain JSON for the manifest: epoch, environment, metrics.
        best: whether this is the best state so far, which is kept whatever comes after.
    """

    files: Mapping[str, Image]
    parts: Mapping[str, Mapping[str, Mapping[str, int]]]
    state: str
    facts: Mapping[str, Any]
    best: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been read and verified.

    Attributes:
        path: its directory.
        parts: tensors and plain state by part.
        state: the rest of ``state.json``.
        manifest: see ``docs/format.md``.
        passed_over: what is wrong with newer ones.
    """

    path: Path
    parts: Mapping[str, Saved]
    state: Mapping[str, Any]
    manifest: Mapping[str, Any]
    passed_over: tuple[str, ...] = ()

    def part(self, name: str) -> Saved:
        """Return one part.

        Raises:
            DamagedError: there is none of this name.
        """
        if name not in self.parts:
            raise DamagedError(f"checkpoint {self.path} has no part {name!r}")
        return self.parts[name]

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Let ``state`` and ``manifest`` be read inside.

        Raises:
            DamagedError: what is looked for is not there, or of another form.
        """
        try:
            yield
        except _OF_STRANGE_JSON as error:
            raise _contradiction(self.path, error) from error


@dataclass(frozen=True)
class Written:
    """What a save came to.

    Attributes:
        path: the checkpoint.
        manifest: what it says.
        written: bytes that were written; files that had not changed were linked.
    """

    path: Path
    manifest: Mapping[str, Any]
    written: int


def directory_of(folder: Path, step: int) -> Path:
    """Return the directory of the checkpoint after ``step`` steps."""
    return folder / f"{_PREFIX}{step:08d}"


def steps_in(folder: Path) -> list[int]:
    """Return the steps of the checkpoints in ``folder``, oldest first, whether sound or not."""
    names = {path.name for path in folder.glob(f"{_PREFIX}*")}
    digits = [name.removeprefix(_PREFIX) for name in names]
    steps = {int(text) for text in digits if text.isdecimal()}
    return sorted(step for step in steps if directory_of(folder, step).name in names)


def to_json(value: Any) -> str:
    """Return plain JSON as one line; equal values in the same order give equal texts."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False) + "\n"


def _sealed(manifest: dict[str, Any]) -> str:
    # The other files are guarded by the manifest, and the manifest by itself.
    whole = {**manifest, _SEAL: _seal_of(manifest)}
    return json.dumps(whole, indent=1, allow_nan=False) + "\n"


def _seal_of(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(to_json(manifest).encode()).hexdigest()


def save(
    folder: Path,
    step: int,
    content: Content,
    keep: int,
    before: Written | None = None,
    leader: Leader | None = None,
) -> Written:
    """Publish a checkpoint, and remove all but the ``keep`` newest and the best.

    A sound checkpoint of the same step that is there already holds the same state and stays.

    Args:
        folder: of all the run's checkpoints.
        step: names the checkpoint.
        content: what it holds.
        keep: how many of the newest stay.
        before: the checkpoint whose unchanged files are linked instead of written again.
        leader: of those who write the files that are not in ``content``; by default all are.

    Raises:
        PeerError: another writer has failed.
        OSError: it could not be written, or older ones not removed; those that are there are as
            they were. Doing it again is safe.
    """
    path = directory_of(folder, step)
    manifest = _sound_manifest(path) if path.exists() else None
    if manifest is not None:
        done = Written(path, manifest, 0)
        durable.sync(folder)  # the try that made it may have failed after the rename
    else:
        if path.exists():
            durable.remove_directory(path)
        done = _write(path, step, content, before, leader or Leader())
    _prune(folder, step, keep)
    return done


def _write(
    path: Path, step: int, content: Content, before: Written | None, leader: Leader
) -> Written:
    with durable.new_directory(path) as place:
        leader.begin(place.name)
        try:
            portions = [write_portion(place, content.files, before)]
        finally:  # nobody is to be writing into what is discarded
            others = leader.portions()
        portions += others
        small = {_STATE: content.state.encode()}
        for part, files in content.parts.items():
            if len(files) > 1:
                small[f"{part}.safetensors.index.json"] = to_json(_index(files)).encode()
        facts = {name: fact for portion in portions for name, fact in portion.files.items()}
        facts = {name: facts[name] for files in content.parts.values() for name in files}
        facts |= {name: _fact(len(t), hashlib.sha256(t).hexdigest()) for name, t in small.items()}
        manifest = {
            "format": FORMAT,
            "step": step,
            **content.facts,
            "best": content.best,
            "parts": {part: list(files) for part, files in content.parts.items()},
            "files": facts,
        }
        written = sum(portion.written for portion in portions)
        for name, text in {**small, _MANIFEST: _sealed(manifest).encode()}.items():
            durable.write_bytes(place / name, text)
            written += len(text)
    return Written(path, manifest, written)


def write_portion(place: Path, files: Mapping[str, Image], before: Written | None) -> Portion:
    """Write a process's files into the new directory of a checkpoint, and flush them.

    Args:
        place: the directory, where this process has written nothing yet.
        files: by name.
        before: see ``save``.

    Raises:
        OSError: they could not be written; some may be there.
    """
    facts = {name: _fact(image.size, image.sha256()) for name, image in files.items()}
    unchanged = {name for name in files if before is not None and _same(before, name, facts[name])}
    _check_space(place, sum(files[name].size for name in files.keys() - unchanged))
    written = 0
    for name, image in files.items():
        if before and name in unchanged and durable.link(before.path / name, place / name):
            continue
        durable.write_bytes(place / name, *image.chunks())
        written += image.size
    return Portion(facts, written)


def _fact(size: int, digest: str) -> dict[str, Any]:
    return {"bytes": size, "sha256": digest}


def _index(files: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    # As transformers writes it, so that its readers open a checkpoint of several files.
    weights = {key: name for name, sizes in files.items() for key in sizes}
    total = sum(size for sizes in files.values() for size in sizes.values())
    return {"metadata": {"total_size": total}, "weight_map": dict(sorted(weights.items()))}


def _same(before: Written, name: str, facts: Mapping[str, Any]) -> bool:
    known = before.manifest["files"].get(name)
    if known != facts:
        return False
    # A link to a file that was damaged since would damage the new checkpoint with the old one.
    try:
        _check_file(before.path, name, known)
    except DamagedError:
        return False
    return True


def _check_space(folder: Path, needed: int) -> None:
    free, needed = durable.free_bytes(folder), needed + _ROOM
    if free < needed:
        wanted, left = needed / 1e6, free / 1e6
        raise OSError(errno.ENOSPC, f"{wanted:.1f} MB are needed and {left:.1f} MB are free")


def _prune(folder: Path, step: int, keep: int) -> None:
    # Those after this step were damaged, or the run would not have come here: they do not count.
    steps = [known for known in steps_in(folder) if known <= step]
    best = next((s for s in reversed(steps) if _says_best(directory_of(folder, s))), None)
    for old in steps[:-keep]:
        if old != best:
            durable.remove_directory(directory_of(folder, old))


def _says_best(path: Path) -> bool:
    try:
        return bool(read_manifest(path)["best"])
    except DamagedError:
        return False


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a checkpoint's manifest and look at its form.

    Raises:
        DamagedError: there is none, or it is not one that luthier writes.
    """
    try:
        manifest: dict[str, Any] = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        if manifest.pop(_SEAL) != _seal_of(manifest):
            raise ValueError("its content is not what was written")
        if manifest["format"] == FORMAT:
            _check_form(manifest)
    except (OSError, *_OF_STRANGE_JSON) as error:
        raise DamagedError(f"checkpoint {path} has no sound {_MANIFEST}: {_why(error)}") from error
    if manifest["format"] != FORMAT:
        raise DamagedError(f"checkpoint {path} has format {manifest['format']}, expected {FORMAT}")
    return manifest


def _check_form(manifest: Mapping[str, Any]) -> None:
    files = manifest["files"]
    for name, facts in files.items():
        if type(facts["bytes"]) is not int or type(facts["sha256"]) is not str:
            raise ValueError(f"{name!r} is described as {facts!r}")
        if not name or Path(name).name != name:
            raise ValueError(f"{name!r} is no file's name")
    missing = {_STATE}.union(*manifest["parts"].values()) - files.keys()
    if missing:
        raise ValueError(f"it says nothing about {', '.join(sorted(missing))}")
    if type(manifest["best"]) is not bool:
        raise ValueError(f"best is {manifest['best']!r}")


def verify(path: Path) -> dict[str, Any]:
    """Compare a checkpoint's files with its manifest and return the manifest.

    Raises:
        DamagedError: a file is missing, or has another size or hash; it is named.
    """
    manifest = read_manifest(path)
    for name, facts in manifest["files"].items():
        _check_file(path, name, facts)
    return manifest


def _check_file(path: Path, name: str, facts: Mapping[str, Any]) -> None:
    file = path / name
    try:
        if not file.is_file() or file.stat().st_size != facts["bytes"]:
            raise DamagedError(f"checkpoint {path}: {name} is missing or has another size")
        found = durable.sha256(file)
    except OSError as error:
        raise DamagedError(f"checkpoint {path}: {name} cannot be read: {error}") from error
    if found != facts["sha256"]:
        raise DamagedError(f"checkpoint {path}: {name} has another SHA-256 than when saved")


def _sound_manifest(path: Path) -> dict[str, Any] | None:
    try:
        return verify(path)
    except DamagedError:
        return None


def newest(folder: Path) -> Checkpoint | None:
    """Read the newest checkpoint that verifies; None where there is none at all.

    Raises:
        DamagedError: there are checkpoints, and every one is damaged.
    """
    passed_over: list[str] = []
    for step in reversed(steps_in(folder)):
        try:
            found = read(directory_of(folder, step))
        except DamagedError as error:
            passed_over.append(error.what)
            continue
        return dataclasses.replace(found, passed_over=tuple(passed_over))
    if passed_over:
        raise DamagedError(f"no checkpoint in {folder} is sound:\n" + "\n".join(passed_over))
    return None


def read(path: Path) -> Checkpoint:
    """Read and verify one checkpoint; each file is read from the disk once.

    Raises:
        DamagedError: a file is missing, or has another size or hash; it is named.
    """
    manifest = read_manifest(path)

    def one(name: str) -> mmap.mmap:
        return _read_file(path, name, manifest["files"][name])

    with ThreadPoolExecutor() as pool:  # reading and hashing let go of the interpreter's lock
        content = dict(zip(manifest["files"], pool.map(one, manifest["files"]), strict=True))
    try:
        state = json.loads(content[_STATE][:])
        plain = state.pop("parts")
        tensors = {
            part: {key: t for name in names for key, t in parse(content[name]).items()}
            for part, names in manifest["parts"].items()
        }
        parts = {p: Saved(tensors.get(p, {}), plain.get(p)) for p in {**tensors, **plain}}
    except _OF_STRANGE_JSON as error:
        raise _contradiction(path, error) from error
    for part, saved in parts.items():
        _check_part(path, part, saved)
    return Checkpoint(path, parts, state, manifest)


def _check_part(path: Path, part: str, saved: Saved) -> None:
    # Here, so that a checkpoint of which only the half can be taken back is passed over as a whole.
    try:
        unpack(saved.plain, saved.tensors)
    except _OF_STRANGE_JSON as error:
        raise _contradiction(path, error, f" in its part {part!r}") from error


def _contradiction(path: Path, error: Exception, where: str = "") -> DamagedError:
    return DamagedError(f"checkpoint {path} contradicts itself{where}: {_why(error)}")


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) if isinstance(error, ValueError) else repr(error)


def _read_file(path: Path, name: str, facts: Mapping[str, Any]) -> mmap.mmap:
    if not facts["bytes"]:
        raise DamagedError(f"checkpoint {path}: {name} is empty")  # luthier writes no such file
    # Read before it is mapped: what a disk cannot give is an error here, and kills the process
    # there.
    _check_file(path, name, facts)
    with (path / name).open("rb") as file:
        # A private map: nothing is copied, and what is written to the memory stays there.
        return mmap.mmap(file.fileno(), facts["bytes"], access=mmap.ACCESS_COPY)

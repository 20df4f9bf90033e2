"""``verify``: are these bytes what was written? No model is loaded."""

from __future__ import annotations

import functools
import json
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from luthier import recipe
from luthier.errors import DamagedError, LuthierError, UnsupportedFileError
from luthier.files.contents.candidates import key_text, suspicious
from luthier.files.contents.finite import not_finite
from luthier.files.entries import Archive, RefusedEntry, SparseEntry, TensorEntry, walk
from luthier.files.opening import open_archive
from luthier.files.wording import plain
from luthier.run.folder import RunFolder
from luthier.storage import Bucket, is_url

_MOST_NOTES = 20  # of one kind, of one file


@dataclass(frozen=True)
class Finding:
    """What was found of one thing.

    Attributes:
        path: the file or checkpoint; in a store its URL.
        problem: what is wrong with it, or None.
        said: what is known of it where it is sound.
        notes: what is no damage, and should be known: numbers that are not finite, code that the
            file wanted to be run, tensors of kinds that luthier does not give.
    """

    path: Path | str
    problem: str | None
    said: str = ""
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.problem is None:
            first = f"sound    {self.path}  {self.said}".rstrip()
        else:
            first = f"DAMAGED  {self.path}: {self.problem}"
        return "\n".join([first, *(f"         note: {note}" for note in self.notes)])


@dataclass(frozen=True)
class Verification:
    """What ``verify`` found.

    Attributes:
        kind: "run", "checkpoint", "file", or "folder" of weights.
        findings: one of each thing in it.
        notes: what else a reader should know.
    """

    kind: str
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether nothing is damaged."""
        return all(finding.problem is None for finding in self.findings)

    def __str__(self) -> str:
        return "\n".join([*map(str, self.findings), *self.notes])

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        found = [
            {"path": str(f.path), "problem": f.problem, "said": f.said, "notes": list(f.notes)}
            for f in self.findings
        ]
        return {
            "kind": self.kind,
            "sound": self.sound,
            "findings": found,
            "notes": list(self.notes),
        }


def verify(path: str | Path) -> Verification:
    """Compare hashes, checksums and structure of a run, a checkpoint or a file of weights.

    Every checksum in a file and the digits of a hash in its name are compared; numbers that are
    not finite are counted, by the name of the tensor. That needs no torch, except for distributed
    checkpoints and the like of luthier's own.

    Args:
        path: a run's folder, a checkpoint's directory, a file or a folder that ``inspect`` opens;
            or the URL of a folder in a store, all of which is brought here for the time.

    Raises:
        UnsupportedFileError: it is none of these, or does not exist.
        MissingExtraError: it is of a kind whose reader is not installed.
        StorageError: the store refuses.
    """
    if is_url(path):
        return _stored(Bucket(str(path)))
    path = Path(path)
    if not path.exists():
        raise UnsupportedFileError(
            f"{path} does not exist",
            cure="give a run's folder, a checkpoint's directory or a weights file",
        )
    if not path.is_dir():
        return Verification("file", (_file(path),))
    if _is_checkpoint(path):
        return Verification("checkpoint", (_checkpoint(path),))
    folder = RunFolder(path)
    if folder.recipe.exists() or folder.checkpoints.is_dir():
        return _run(folder)
    return Verification("folder", (_file(path),))


def _stored(bucket: Bucket) -> Verification:
    names = bucket.names()
    if not names:
        raise UnsupportedFileError(
            f"{bucket.url} holds nothing", cure="give the URL of a run's folder or a checkpoint's"
        )
    with tempfile.TemporaryDirectory(prefix="luthier-") as place:
        here = Path(place) / bucket.url.rpartition("/")[2]
        for name in names:
            (here / name).parent.mkdir(parents=True, exist_ok=True)
            bucket.download(name, here / name)
        found = verify(here)

    def there(text: str) -> str:
        return text.replace(str(here), bucket.url)

    moved = [
        replace(f, path=there(str(f.path)), problem=f.problem and there(f.problem))
        for f in found.findings
    ]
    return replace(found, findings=tuple(moved))


def _is_checkpoint(path: Path) -> bool:
    # Others have a manifest.json too; and where one of the two is gone, the name tells.
    found = [(path / name).exists() for name in ("manifest.json", "state.json")]
    named = re.fullmatch(r"step-\d{8,}", path.absolute().name)
    return all(found) or (named is not None and any(found))


_Seen = tuple[str, tuple[str, ...]]  # what is said of a thing, and notes


def _checked(path: Path, look: Callable[[Path], _Seen]) -> Finding:
    try:
        return Finding(path, None, *look(path))
    except DamagedError as error:
        return Finding(path, _once(error.what, path))


def _once(problem: str, path: Path) -> str:
    """Return what an error says without the path that stands before it already."""
    found = re.fullmatch(rf"(?s)(?:\w+ ){{0,3}}{re.escape(str(path))}(?:: *| )(.*)", problem)
    told = (found[1] if found else problem).removeprefix("is truncated or damaged: ")
    return f"it {told}" if found and told.startswith(("is ", "has ", "holds ")) else told


def _file(path: Path) -> Finding:
    return _checked(path, _look_at_file)


def _look_at_file(path: Path) -> _Seen:
    archive = open_archive(path)
    archive.check()
    # torchvision and others end a name with the beginning of its hash; digits alone are a date.
    named = re.search(r"-(?=\d*[a-f])([0-9a-f]{8,64})\.\w+$", path.name)
    if named is not None and archive.sha256 and not archive.sha256.startswith(named[1]):
        raise DamagedError(
            f"its SHA-256 begins with {archive.sha256[:8]}, its name says {named[1]}"
        )
    found = [value for _, value in walk(archive.content) if isinstance(value, _ENTRIES)]
    many = f"{len(found)} tensor{'s' * (len(found) != 1)}"
    size = f", {_size(path.stat().st_size)}" if path.is_file() else ""
    digest = f", SHA-256 {archive.sha256[:16]}…" if archive.sha256 else ""
    return f"{archive.kind}, {many}{size}{digest}", _notes(archive)


_ENTRIES = (TensorEntry, SparseEntry, RefusedEntry)


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e6:.1f} MB" if nbytes >= 100_000 else f"{nbytes / 1e3:.1f} kB"


def _notes(archive: Archive) -> tuple[str, ...]:
    refused = [
        f"tensor {plain('.'.join(map(key_text, place.keys())))} {value.why}"
        for place, value in walk(archive.content)
        if isinstance(value, RefusedEntry)
    ]
    unfit = [plain(f"not finite: {found}", 300) for found in not_finite(archive)]
    return (*_some(unfit), *_some(refused), *_some(list(suspicious(archive))))


def _some(notes: list[str]) -> list[str]:
    if len(notes) <= _MOST_NOTES:
        return notes
    return [*notes[:_MOST_NOTES], f"and {len(notes) - _MOST_NOTES} more like this"]


def _checkpoint(path: Path) -> Finding:
    return _checked(path, _look_at_checkpoint)


def _look_at_checkpoint(path: Path) -> _Seen:
    from luthier import checkpoint  # noqa: PLC0415 - torch comes with it

    files = checkpoint.read(path).manifest["files"]
    total = sum(facts["bytes"] for facts in files.values())
    return f"{len(files)} files, {_size(total)}", _notes(open_archive(path))


def _run(folder: RunFolder) -> Verification:
    from luthier import checkpoint  # noqa: PLC0415 - torch comes with it

    steps = checkpoint.steps_in(folder.checkpoints)
    states = [_checkpoint(checkpoint.directory_of(folder.checkpoints, step)) for step in steps]
    sound = [step for step, state in zip(steps, states, strict=True) if state.problem is None]
    known = _lines_known(checkpoint.directory_of(folder.checkpoints, sound[-1])) if sound else 0
    findings = list(states)
    for path, look in (
        (folder.recipe, _look_at_recipe),
        (folder.metrics, functools.partial(_look_at_metrics, known=known)),
        (folder.model, _look_at_file),
        (folder.predictions, _look_at_file),
    ):
        if path.exists():
            findings.append(_checked(path, look))
    features = sorted(folder.features.glob("*.safetensors"))
    findings += [_checked(path, _look_at_features) for path in features]
    notes = [f"it would continue at step {sound[-1]}" if sound else "there is no sound checkpoint"]
    places = (folder.path, folder.checkpoints, folder.features)
    left = [path for place in places for path in place.glob(".tmp-*")]
    if left:
        notes.append(f"{len(left)} unfinished writes, which the next start removes")
    return Verification("run", tuple(findings), tuple(notes))


def _look_at_features(path: Path) -> _Seen:
    from luthier.run import features  # noqa: PLC0415 - torch comes with it

    count, width = features.check(path).features.shape
    return f"{width} features of {count} images", ()


def _look_at_recipe(path: Path) -> _Seen:
    try:
        recipe.read(path)
    except LuthierError as error:
        raise DamagedError(error.what) from error
    return "", ()


def _lines_known(sound: Path) -> int:
    lines = json.loads((sound / "state.json").read_text(encoding="utf-8")).get("lines", 0)
    return lines if isinstance(lines, int) else 0


def _look_at_metrics(path: Path, known: int) -> _Seen:
    lines = path.read_bytes().splitlines(keepends=True)
    whole = sum(line.endswith(b"\n") for line in lines)
    if whole < known:
        raise DamagedError(f"it has {whole} lines, and the newest checkpoint knows of {known}")
    for number, line in enumerate(lines, start=1):
        try:
            json.loads(line)
        except ValueError as error:
            # A run that is under way, or was killed, may have half a last line.
            if number == len(lines) and not line.endswith(b"\n"):
                said = f"{number - 1} lines and a part of one, which a resumed run writes again"
                return said, ()
            raise DamagedError(f"line {number} is no JSON: {error}") from error
    return f"{len(lines)} lines", ()

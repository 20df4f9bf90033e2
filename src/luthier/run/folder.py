"""A run's folder: where each thing lies. The layout is specified in ``docs/format.md``."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.errors import CannotWriteError, RunFolderError
from luthier.files import durable
from luthier.studies import STUDY

try:
    import fcntl
except ImportError:  # Windows has none, and no lock either
    fcntl = None  # type: ignore[assignment]


@dataclass(frozen=True)
class RunFolder:
    """The places of one run.

    Attributes:
        path: the folder that it works in.
        url: of the store that has all of it, where its home is one.
    """

    path: Path
    url: str | None = None

    @property
    def name(self) -> str:
        """What a user calls it."""
        return self.url or str(self.path)

    def sweep(self) -> None:
        """Remove what killed writers left."""
        for place in (self.path, self.checkpoints, self.path / "features"):
            durable.sweep(place)

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.path / "recipe.toml"

    @property
    def job(self) -> Path:
        """The name of the job of ``torchrun`` that began the run."""
        return self.path / ".job"

    @property
    def data(self) -> Path:
        """What was found in every image."""
        return self.path / "data.json"

    @property
    def metrics(self) -> Path:
        """One JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def log(self) -> Path:
        """What was said."""
        return self.path / "log.txt"

    @property
    def failure(self) -> Path:
        """What ended it, where an error did; gone once it goes on."""
        return self.path / "failure.json"

    @property
    def checkpoints(self) -> Path:
        """One directory a checkpoint."""
        return self.path / "checkpoints"

    @property
    def features(self) -> Path:
        """What a probe's trunk shows of the photos; gone once the run or comparison is finished."""
        return (self.path.parent if self.shares_features else self.path) / "features"

    @property
    def shares_features(self) -> bool:
        """Whether it is a run of a comparison, whose runs have features in common."""
        return (self.path.parent / STUDY).is_file()

    @property
    def model(self) -> Path:
        """The best model."""
        return self.path / "model.safetensors"

    @property
    def predictions(self) -> Path:
        """The best model's scores of each validation image."""
        return self.path / "predictions.safetensors"

    @property
    def page(self) -> Path:
        """The run as a page to read."""
        return self.path / "report.html"

    @property
    def summary(self) -> Path:
        """What came out; there once the run is finished."""
        return self.path / "summary.json"

    @property
    def curves(self) -> Path:
        """Loss and accuracy as a picture."""
        return self.path / "curves.png"


def free_folder(base: Path) -> Path:
    """Return ``base``, or ``base-2`` and so on where it exists already."""
    free, number = base, 1
    while free.exists():
        number += 1
        free = base.with_name(f"{base.name}-{number}")
    return free


def new_run(out: Path | None, data: str) -> RunFolder:
    """Choose the folder of a new run; ``runs/NAME-OF-THE-DATA`` with a number by default.

    Raises:
        RunFolderError: ``out`` is a file, or a folder that holds something.
    """
    if out is None:
        out = free_folder(Path("runs") / _name_of(data))
    if out.is_file():
        raise RunFolderError(f"--out {out} is a file, expected a new folder")
    if out.is_dir() and any(map(_is_something, out.iterdir())):
        if (out / "recipe.toml").exists():
            cure = f"continue it with: luthier resume {out}; or give another --out"
            raise RunFolderError(f"--out {out} holds a run already", cure=cure)
        raise RunFolderError(f"--out {out} is not empty", cure="give a new folder")
    return RunFolder(out.resolve())


def run_of_job(out: Path | None, data: str, job: str | None) -> RunFolder | None:
    """Return the run that an earlier start of a job of ``torchrun`` has begun, if there is one.

    Args:
        out: as of ``new_run``.
        data: likewise.
        job: its name.
    """
    base = Path("runs") / _name_of(data)
    places = [out] if out is not None else sorted(base.parent.glob(f"{base.name}*"))
    for folder in map(RunFolder, places):
        with contextlib.suppress(OSError):
            if folder.recipe.exists() and folder.job.read_text(encoding="utf-8") == job:
                return RunFolder(folder.path.resolve())
    return None


def _name_of(data: str) -> str:
    return Path(data).resolve().stem or "run"


def _is_something(path: Path) -> bool:
    # A start that ended before it wrote its recipe leaves a lock, and perhaps what is unfinished.
    return path.name not in (".lock", ".job") and not path.name.startswith(durable.TEMPORARY)


def existing_run(path: Path) -> RunFolder:
    """Return the folder of a run that was started.

    Raises:
        RunFolderError: there is no run.
    """
    folder = RunFolder(path.resolve())
    if not folder.recipe.is_file():
        what = "has no recipe.toml" if path.is_dir() else "does not exist"
        raise RunFolderError(
            f"{path} {what}, so there is no run to resume", cure="start one: luthier finetune DATA"
        )
    return folder


_held_here: set[Path] = set()  # by this process, which its own locks would not keep out


@contextlib.contextmanager
def held(folder: RunFolder) -> Iterator[None]:
    """Keep everyone else out of a run's folder, which is made; the process's end frees it.

    Raises:
        RunFolderError: this or another process is at work in it.
        CannotWriteError: it cannot be written.
    """
    if folder.path in _held_here:
        raise _in_use(folder, "this process", "close it first")
    try:
        durable.make_directories(folder.path)
        # Without a buffer: what a full disk refuses would be refused once more at the end.
        file = (folder.path / ".lock").open("ab+", buffering=0)
    except OSError as error:
        raise CannotWriteError(
            f"run {folder.path} cannot be written: {error.strerror}",
            cure="give a folder that may be written to",
        ) from error
    with file:
        if fcntl is not None:
            try:
                # A record lock: forked workers do not hold it, so a kill frees it at once.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                holder = f"process {file.read().decode(errors='replace').strip() or '(unknown)'}"
                raise _in_use(folder, holder, "stop it with Ctrl-C or SIGTERM") from error
        with contextlib.suppress(OSError):  # it only tells others who; the disk may be full
            file.truncate(0)
            file.write(str(os.getpid()).encode())
        _held_here.add(folder.path)
        try:
            yield
        finally:
            _held_here.discard(folder.path)


def _in_use(folder: RunFolder, holder: str, how: str) -> RunFolderError:
    return RunFolderError(
        f"run {folder.path} is in use by {holder}", cure=f"wait for its end, or {how}"
    )


class Metrics:
    """The lines of ``metrics.jsonl``.

    Args:
        path: the file; it need not exist. None: another process of the job writes it.
        keep: lines to keep of an existing file; a resumed run writes the others again.
    """

    def __init__(self, path: Path | None, keep: int) -> None:
        self._pending = bytearray()
        self.lines = keep
        self._handle: int | None = None
        if path is None:
            return
        lines = path.read_bytes().splitlines(keepends=True)[:keep] if path.exists() else []
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()  # a part of one
        if len(lines) < keep:
            raise RunFolderError(
                f"{path} has {len(lines)} lines, expected {keep} at this checkpoint",
                cure="it was cut or changed by hand; start a new run",
            )
        with durable.new_file(path) as temporary:
            temporary.write_bytes(b"".join(lines))
        self._handle = os.open(path, os.O_WRONLY | os.O_APPEND)

    def add(self, record: Mapping[str, Any]) -> None:
        """Add a record; ``flush`` writes it."""
        if self._handle is not None:
            self._pending += json.dumps(record).encode() + b"\n"
        self.lines += 1

    def flush(self) -> None:
        """Let other programs see what was added.

        Raises:
            OSError: the disk is full or refuses; nothing is lost, and it can be tried again.
        """
        while self._handle is not None and self._pending:
            count = os.write(self._handle, self._pending)
            del self._pending[:count]

    def sync(self) -> None:
        """Bring what was flushed to the disk; may be called on another thread."""
        if self._handle is not None:
            os.fsync(self._handle)

    def close(self) -> None:
        """Bring everything to the disk and close the file.

        What the disk refused before is left out: no checkpoint knows of it.
        """
        try:
            with contextlib.suppress(OSError):
                self.flush()
            self.sync()
        finally:
            if self._handle is not None:
                os.close(self._handle)

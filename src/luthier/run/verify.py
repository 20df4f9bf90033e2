"""``verify``: are these bytes what was written? No model is loaded."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier import checkpoint, recipe
from luthier.errors import DamagedError, LuthierError, UnsupportedFileError
from luthier.files import durable, tensors
from luthier.run.folder import RunFolder


@dataclass(frozen=True)
class Finding:
    """What was found of one thing.

    Attributes:
        path: the file or checkpoint.
        problem: what is wrong with it, or None.
        said: what is known of it where it is sound.
    """

    path: Path
    problem: str | None
    said: str = ""

    def __str__(self) -> str:
        if self.problem is None:
            return f"sound    {self.path}  {self.said}".rstrip()
        return f"DAMAGED  {self.path}: {self.problem}"


@dataclass(frozen=True)
class Verification:
    """What ``verify`` found.

    Attributes:
        kind: "run", "checkpoint" or "file".
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
        found = [{"path": str(f.path), "problem": f.problem, "said": f.said} for f in self.findings]
        return {
            "kind": self.kind,
            "sound": self.sound,
            "findings": found,
            "notes": list(self.notes),
        }


def verify(path: str | Path) -> Verification:
    """Compare hashes and structure of a run, a checkpoint or a weights file.

    Args:
        path: a run's folder, a checkpoint's directory, a safetensors or a torch file.

    Raises:
        UnsupportedFileError: it is none of these, or does not exist.
    """
    path = Path(path)
    if path.is_file():
        return Verification("file", (_file(path),))
    if (path / "manifest.json").exists():
        return Verification("checkpoint", (_checkpoint(path),))
    folder = RunFolder(path)
    if not path.is_dir() or not (folder.recipe.exists() or folder.checkpoints.is_dir()):
        what = "is neither a run nor a checkpoint" if path.is_dir() else "does not exist"
        raise UnsupportedFileError(
            f"{path} {what}", cure="give a run's folder, a checkpoint's directory or a weights file"
        )
    return _run(folder)


def _checked(path: Path, look: Any) -> Finding:
    try:
        return Finding(path, None, look(path))
    except DamagedError as error:
        problem = error.what.removeprefix("checkpoint ").removeprefix(str(path))
        return Finding(path, problem.lstrip(": "))


def _file(path: Path) -> Finding:
    return _checked(path, _look_at_file)


def _look_at_file(path: Path) -> str:
    count = tensors.check_structure(path)
    sha256 = durable.sha256(path)
    # torchvision and others end a name with the beginning of its hash.
    named = re.search(r"-([0-9a-f]{8,64})\.\w+$", path.name)
    if named is not None and not sha256.startswith(named[1]):
        raise DamagedError(f"its SHA-256 begins with {sha256[:8]}, its name says {named[1]}")
    many = f"{count} tensors, " if count else ""
    return f"{many}{path.stat().st_size / 1e6:.1f} MB, SHA-256 {sha256[:16]}…"


def _checkpoint(path: Path) -> Finding:
    return _checked(path, _look_at_checkpoint)


def _look_at_checkpoint(path: Path) -> str:
    files = checkpoint.read(path).manifest["files"]
    for name in files:
        if name.endswith(".safetensors"):
            tensors.check_structure(path / name)
    total = sum(facts["bytes"] for facts in files.values())
    return f"{len(files)} files, {total / 1e6:.1f} MB"


def _run(folder: RunFolder) -> Verification:
    steps = checkpoint.steps_in(folder.checkpoints)
    states = [_checkpoint(checkpoint.directory_of(folder.checkpoints, step)) for step in steps]
    findings = list(states)
    for path, look in (
        (folder.recipe, _look_at_recipe),
        (folder.metrics, _look_at_metrics),
        (folder.model, _look_at_file),
    ):
        if path.exists():
            findings.append(_checked(path, look))
    sound = [step for step, state in zip(steps, states, strict=True) if state.problem is None]
    notes = [f"it would continue at step {sound[-1]}" if sound else "there is no sound checkpoint"]
    left = [*folder.path.glob(".tmp-*"), *folder.checkpoints.glob(".tmp-*")]
    if left:
        notes.append(f"{len(left)} unfinished writes, which the next start removes")
    return Verification("run", tuple(findings), tuple(notes))


def _look_at_recipe(path: Path) -> str:
    try:
        recipe.read(path)
    except LuthierError as error:
        raise DamagedError(error.what) from error
    return ""


def _look_at_metrics(path: Path) -> str:
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        try:
            json.loads(line)
        except ValueError as error:
            # A run that is under way, or was killed, may have half a last line.
            if number == len(lines) and not line.endswith(b"\n"):
                return f"{number - 1} lines and a part of one, which a resumed run writes again"
            raise DamagedError(f"line {number} is no JSON: {error}") from error
    return f"{len(lines)} lines"

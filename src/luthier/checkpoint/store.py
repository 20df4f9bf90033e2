"""Checkpoint directories: each appears whole or not at all, and never changes after.

The format is specified in ``docs/format.md``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from luthier.errors import DamagedError
from luthier.files import durable, tensors

FORMAT = 1
_PREFIX = "step-"
_MANIFEST = "manifest.json"
_STATE = "state.json"


@dataclass(frozen=True)
class Content:
    """What a checkpoint holds.

    Attributes:
        tensors: by part ("model", "optimizer", "average") and name.
        state: plain JSON: position, sums, best score, policy.
        facts: plain JSON for the manifest: epoch, environment, metrics.
    """

    tensors: Mapping[str, Mapping[str, torch.Tensor]]
    state: Mapping[str, Any]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been read and verified, and newer ones that were damaged."""

    path: Path
    content: Content
    passed_over: tuple[str, ...] = ()


def directory_of(folder: Path, step: int) -> Path:
    """Return the directory of the checkpoint after ``step`` optimizer steps."""
    return folder / f"{_PREFIX}{step:08d}"


def steps_in(folder: Path) -> list[int]:
    """Return the steps of the checkpoints in ``folder``, oldest first, whether sound or not."""
    names = [path.name.removeprefix(_PREFIX) for path in folder.glob(f"{_PREFIX}*")]
    return sorted(int(name) for name in names if name.isdigit())


def save(folder: Path, step: int, content: Content, keep: int) -> Path:
    """Publish a checkpoint and remove all but the ``keep`` newest.

    A sound checkpoint of the same step that is there already holds the same bits and stays.

    Raises:
        OSError: it could not be written; those that are there are as they were.
    """
    path = directory_of(folder, step)
    if path.exists() and not _is_sound(path):
        durable.remove_directory(path)
    if not path.exists():
        with durable.new_directory(path) as new:
            for part, named in content.tensors.items():
                tensors.write_in_place(new / f"{part}.safetensors", named)
            (new / _STATE).write_text(_json(content.state), encoding="utf-8")
            files = {f.name: _facts_of(f) for f in sorted(new.iterdir())}
            manifest = {"format": FORMAT, "step": step, **content.facts, "files": files}
            (new / _MANIFEST).write_text(_json(manifest), encoding="utf-8")
    for old in steps_in(folder)[:-keep]:
        durable.remove_directory(directory_of(folder, old))
    return path


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"


def _facts_of(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": durable.sha256(path)}


def verify(path: Path) -> dict[str, Any]:
    """Compare a checkpoint's files with its manifest and return the manifest.

    Raises:
        DamagedError: a file is missing, or has another size or hash; it is named.
    """
    try:
        manifest: dict[str, Any] = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        files = {n: (f["bytes"], f["sha256"]) for n, f in manifest["files"].items()}
        found_format = manifest["format"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"checkpoint {path} has no sound {_MANIFEST}: {error}") from error
    if found_format != FORMAT:
        raise DamagedError(f"checkpoint {path} has format {found_format}, expected {FORMAT}")
    if _STATE not in files:
        raise DamagedError(f"checkpoint {path}: {_MANIFEST} does not list {_STATE}")
    for name, (size, sha256) in files.items():
        file = path / name
        if not file.is_file() or file.stat().st_size != size:
            raise DamagedError(f"checkpoint {path}: {name} is missing or has another size")
        if durable.sha256(file) != sha256:
            raise DamagedError(f"checkpoint {path}: {name} has another SHA-256 than when saved")
    return manifest


def _is_sound(path: Path) -> bool:
    try:
        verify(path)
    except DamagedError:
        return False
    return True


def newest(folder: Path) -> Checkpoint | None:
    """Read the newest checkpoint that verifies; None where there is none at all.

    Raises:
        DamagedError: there are checkpoints, and every one is damaged.
    """
    passed_over: list[str] = []
    for step in reversed(steps_in(folder)):
        path = directory_of(folder, step)
        try:
            manifest = verify(path)
        except DamagedError as error:
            passed_over.append(error.what)
            continue
        names = [Path(name) for name in manifest["files"] if name.endswith(".safetensors")]
        parts = {name.stem: tensors.read(path / name).tensors for name in names}
        state = json.loads((path / _STATE).read_text(encoding="utf-8"))
        return Checkpoint(path, Content(parts, state, manifest), tuple(passed_over))
    if passed_over:
        raise DamagedError(f"no checkpoint in {folder} is sound:\n" + "\n".join(passed_over))
    return None

"""Folders of weights: checkpoints of luthier and others, and what Hugging Face's hub gives.

No torch here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from luthier.errors import DamagedError, LuthierError, UnsupportedFileError
from luthier.files import telling
from luthier.files.entries import Archive
from luthier.files.formats.sharded import Opener, beside
from luthier.files.mapped import MappedFile
from luthier.files.parsing import strict_json
from luthier.files.wording import plain, some

# Names of weights as they are known, those that are preferred first.
_INDICES = (
    "model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)
_WHOLE = (
    "model.safetensors",
    "diffusion_pytorch_model.safetensors",
    "adapter_model.safetensors",
    "pytorch_model.bin",
    "adapter_model.bin",
)
_MOST_FILES = 1_000  # that are looked at
# Files that only one producer writes beside its weights.
_PRODUCERS = {
    "trainer_state.json": "Hugging Face Trainer",
    "random_states_0.pkl": "Accelerate",
    "optimizer.bin": "Accelerate",
    "model_index.json": "diffusers",
    "adapter_config.json": "PEFT",
    "recipe.toml": "luthier",
}


def read(folder: Path, open_file: Opener) -> Archive:
    """Open the weights in a folder.

    Args:
        folder: is not searched below, and names in it are not followed out of it.
        open_file: opens one file.

    Raises:
        UnsupportedFileError: it holds no weights, or several and none of a known name.
        DamagedError: see the formats.
    """
    try:
        names = sorted(path.name for path in islice(folder.iterdir(), _MOST_FILES))
    except OSError as error:
        raise UnsupportedFileError(f"folder {folder} cannot be read: {error.strerror}") from error
    if {"manifest.json", "state.json"} <= set(names):
        return _luthier(folder, open_file)
    if ".metadata" in names:
        distributed = importlib.import_module("luthier.files.formats.distributed")
        found: Archive = distributed.read(folder)
        return found
    chosen = _chosen(folder, names)
    archive = open_file(beside(folder / chosen, chosen))
    others = [name for name in names if name != chosen and not name.startswith(".")]
    facts = [("in the folder of", by) for name, by in _PRODUCERS.items() if name in names][:1]
    if others:
        facts.append(("beside it", _some(others, 12)))
    return dataclasses.replace(archive, facts=(*archive.facts, *facts))


def _chosen(folder: Path, names: list[str]) -> str:
    known = [name for name in (*_INDICES, *_WHOLE) if name in names]
    known = known or [name for name in names if name.endswith(".index.json")]
    known = known or [name for name in names if _is_weights(folder / name)]
    if known and (len(known) == 1 or known[0] in (*_INDICES, *_WHOLE)):
        return known[0]
    if known:
        raise UnsupportedFileError(
            f"{folder} holds several files of weights: {_some(known)}",
            cure="give one of them",
        )
    raise UnsupportedFileError(f"folder {folder} holds no weights", cure=_cure(folder, names))


def _some(names: list[str], limit: int = 5) -> str:
    return some((plain(name, 60) for name in names), len(names), limit)


def _is_weights(path: Path) -> bool:
    try:
        return path.is_file() and telling.format_of(MappedFile(path)) != "sharded"
    except LuthierError:
        return False


def _cure(folder: Path, names: list[str]) -> str:
    """Say where below a folder there may be weights."""
    inside = (p.name for p in (folder / "checkpoints").glob("step-*"))
    for step in sorted(inside, reverse=True):
        return f"it is a run of luthier: give {folder / 'checkpoints' / step}"
    below = [name for name in names if (folder / name / ".metadata").exists()]
    below += [name for name in names if name.startswith(("checkpoint-", "global_step"))]
    if "saved_model.pb" in names:
        return "it is a SavedModel of TensorFlow, which luthier does not read"
    if below:
        return f"give a folder in it: {_some(below)}"
    return f"it holds {_some(names)}" if names else "it is empty"


# --- luthier's own checkpoints ----------------------------------------------------------------


def _luthier(folder: Path, open_file: Opener) -> Archive:
    manifest = _json(folder, "manifest.json")
    parts, files = manifest.get("parts"), manifest.get("files")
    if not isinstance(parts, dict) or not isinstance(files, dict) or not _are_lists(parts):
        raise DamagedError(f"checkpoint {folder}: its manifest.json names no parts and files")
    content: dict[str, Any] = {"state": _json(folder, "state.json")}
    for part, names in parts.items():
        held = content[part] = {}
        for name in names:
            shard = open_file(_file(folder, name))
            if shard.kind != "safetensors":
                raise DamagedError(f"checkpoint {folder}: {name} is no safetensors file")
            twice = sorted(held.keys() & shard.content.keys())
            if twice:
                raise DamagedError(f"checkpoint {folder}: {plain(twice[0])} is in two files")
            held.update(shard.content)
    return Archive(
        folder,
        "luthier checkpoint",
        content,
        metadata=manifest,
        facts=(("step", str(manifest.get("step"))), ("parts", _some(list(parts)))),
        check=lambda: _compare(folder, files),
    )


def _are_lists(parts: Mapping[str, Any]) -> bool:
    return all(
        isinstance(names, list) and all(isinstance(name, str) for name in names)
        for names in parts.values()
    )


def _file(folder: Path, name: str) -> Path:
    if not name or Path(name).name != name or "\0" in name:
        raise DamagedError(f"checkpoint {folder}: {name!r} is no file's name")
    return beside(folder / "manifest.json", name)


def _json(folder: Path, name: str) -> dict[str, Any]:
    file = MappedFile(_file(folder, name))
    try:
        found = strict_json.parse(file.read(0, file.size), file.size + strict_json.ROOM)
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
    except ValueError as error:
        raise DamagedError(f"checkpoint {folder}: {name} is damaged: {error}") from error
    return found


def _compare(folder: Path, files: Mapping[str, Any]) -> None:
    for name, facts in files.items():
        found = hashlib.sha256()
        file = MappedFile(_file(folder, name))
        for at in range(0, file.size, 1 << 20):
            found.update(file.read(at, min(1 << 20, file.size - at)))
        if not isinstance(facts, dict) or found.hexdigest() != facts.get("sha256"):
            raise DamagedError(f"checkpoint {folder}: {name} has another SHA-256 than when saved")

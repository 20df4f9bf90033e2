"""Weights in several files, and the JSON index that says which tensor is in which. No torch here.

Written by Hugging Face's libraries, by luthier and others, over safetensors or torch's files. A
shard's name is a name in the index's folder and no path.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from luthier.errors import DamagedError, UnsupportedFileError
from luthier.files.entries import Archive, Entry, RefusedEntry, SparseEntry, TensorEntry
from luthier.files.mapped import MappedFile
from luthier.files.parsing import strict_json
from luthier.files.wording import plain, some

Opener = Callable[[Path], Archive]
_ENTRIES = (TensorEntry, SparseEntry, RefusedEntry)
_LARGEST_INDEX = 256 << 20  # bytes
_MOST_SHARDS = 10_000


def read(file: MappedFile, open_file: Opener) -> Archive:
    """Read an index and open its shards, each once.

    Args:
        file: the index.
        open_file: opens a shard.

    Raises:
        UnsupportedFileError: it is JSON, but no index.
        DamagedError: it contradicts its shards, names a file elsewhere, or one is missing.
    """
    index = _index(file)
    listed = _weight_map(file, index)
    shards = {name: _shard(file.path, name, open_file) for name in dict.fromkeys(listed.values())}
    where = _with_ties(listed, shards)
    kinds = sorted({shard.kind for shard in shards.values()})
    return Archive(
        file.path,
        f"sharded {' and '.join(kinds)}",
        {name: _entry(file.path, name, shards[shard], shard) for name, shard in where.items()},
        metadata=_description(index),
        facts=(("shards", str(len(shards))), *_left_out(where, shards)),
        globals=tuple(dict.fromkeys(g for shard in shards.values() for g in shard.globals)),
        check=lambda: _check(shards),
        _sha256="",
    )


def _check(shards: Mapping[str, Archive]) -> None:
    for shard in shards.values():
        shard.check()


def _with_ties(listed: Mapping[str, str], shards: Mapping[str, Archive]) -> dict[str, str]:
    """Add the other names of tied tensors: an index lists only those that are stored."""
    entries = {id(shards[shard].content.get(name)) for name, shard in listed.items()}
    others = {
        name: shard
        for shard, archive in shards.items()
        for name, entry in archive.content.items()
        if isinstance(entry, _ENTRIES) and id(entry) in entries
    }
    return {**listed, **{name: shard for name, shard in others.items() if name not in listed}}


def _description(index: Mapping[str, Any]) -> dict[str, Any]:
    about = index.get("metadata")
    found = about.get("luthier") if isinstance(about, dict) else None
    return found if isinstance(found, dict) else {}


def _index(file: MappedFile) -> dict[str, Any]:
    if file.size > _LARGEST_INDEX:
        raise UnsupportedFileError(f"{file.path} is JSON of {file.size} bytes, no weights file")
    try:
        found: dict[str, Any] = strict_json.parse(file.read(0, file.size), room(file.path))
    except ValueError as error:
        raise DamagedError(f"{file.path} is no weights file: {error}") from error
    return found


def room(index: Path) -> int:
    """Return the bytes of memory that an index may take up, or its shards: as those of one file."""
    others = islice(index.parent.iterdir(), _MOST_SHARDS)
    return strict_json.ROOM + sum(path.lstat().st_size for path in others)


def _weight_map(file: MappedFile, found: Mapping[str, Any]) -> dict[str, str]:
    where = found.get("weight_map")
    if where is None:
        raise UnsupportedFileError(
            f"{file.path} is JSON without weights: it holds {_keys(found)}",
            cure="give the file of weights that lies beside it, or the folder",
        )
    if not isinstance(where, dict) or not where or not all(map(_is_name, where.values())):
        named = where.values() if isinstance(where, dict) else [where]
        wrong = next((name for name in named if not _is_name(name)), where)
        raise DamagedError(
            f"index {file.path} is damaged: its weight_map says {reprlib.repr(wrong)[:80]},"
            " expected the name of a file in the same folder"
        )
    return where


def _keys(found: Mapping[str, Any]) -> str:
    return some((plain(name, 40) for name in found), len(found), 4) or "nothing"


def _is_name(value: Any) -> bool:
    return (
        isinstance(value, str)
        and 0 < len(value) <= 255
        and value not in (".", "..")
        and not any(mark in value for mark in "/\\:\0")
        and not any("\ud800" <= mark <= "\udfff" for mark in value)  # no file's name has those
    )


def _shard(index: Path, name: str, open_file: Opener) -> Archive:
    found = open_file(beside(index, name))
    if found.kind.startswith("sharded") or not isinstance(found.content, dict):
        raise DamagedError(
            f"index {index} names {plain(name)} as a shard, and it holds no tensors by name"
        )
    return found


def beside(file: Path, name: str) -> Path:
    """Return the file of a name that another one refers to.

    Args:
        file: which refers to it.
        name: in the same folder.

    Raises:
        DamagedError: there is none, or it is a link out of the folder.
    """
    folder = file.parent.resolve()
    path = folder / name
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise DamagedError(
            f"{file} refers to {plain(name)}, which is missing",
            cure=f"fetch it and put it into {file.parent}",
        ) from error
    if real.parent != folder and real.parent != _hub_blobs(folder):
        raise DamagedError(
            f"{file} refers to {plain(name)}, which is a link to {real}, out of the folder",
            cure="copy the file there if it is the right one",
        )
    return real


def _hub_blobs(folder: Path) -> Path | None:
    # Hugging Face's cache: models--…/snapshots/REVISION/NAME is a link to models--…/blobs/HASH.
    return folder.parent.parent / "blobs" if folder.parent.name == "snapshots" else None


def _entry(index: Path, name: str, shard: Archive, shard_name: str) -> Entry:
    found = shard.content.get(name)
    if not isinstance(found, _ENTRIES):
        raise DamagedError(
            f"index {index} is damaged: tensor {name[:200]!r} is not in {plain(shard_name)},"
            " where it says"
        )
    return found


def _left_out(where: Mapping[str, str], shards: Mapping[str, Archive]) -> list[tuple[str, str]]:
    extra = [
        key
        for shard_name, shard in shards.items()
        for key in shard.content
        if where.get(key) != shard_name
    ]
    if not extra:
        return []
    named = some((plain(key, 60) for key in extra), len(extra), 3)
    return [("in the shards, but not in the index", f"{len(extra)} entries: {named}")]

"""What is asked of processes of their own, each with a time limit: torch, Gloo, NCCL, a folder."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CHILDREN = Path(__file__).with_name("children")
_LONGEST = 300  # characters of an error that are told
_MOUNTS = Path("/proc/self/mounts")
_ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # the first that is set counts


@dataclass(frozen=True)
class Unknown:
    """What could not be found out.

    Attributes:
        kind: "timeout", "signal", "exit" or "error".
        facts: about it.
    """

    kind: str
    facts: Mapping[str, object]


@dataclass(frozen=True)
class Torch:
    """What torch says of itself.

    Attributes:
        missing: it is not installed.
        error: why it cannot be imported.
        version: such as ``"2.13.0+cpu"``.
        cuda: that it was built for; None of a build without.
        hip: likewise, AMD's.
        arches: what its kernels were compiled for, such as ``"sm_90"`` and ``"compute_90"``.
        available: whether it can compute with CUDA, or with HIP, here.
        reason: why not, where it says so.
        threads: that it computes with.
        allocator: why it refuses the settings of its allocator in the environment.
    """

    missing: bool = False
    error: str | None = None
    version: str | None = None
    cuda: str | None = None
    hip: str | None = None
    arches: tuple[str, ...] = ()
    available: bool = False
    reason: str | None = None
    threads: int | None = None
    allocator: str | None = None


@dataclass(frozen=True)
class Compiled:
    """Why a compiled part of torchvision does not load beside torch; None where it does."""

    operators: str | None = None
    decoders: str | None = None


@dataclass(frozen=True)
class Group:
    """How processes have met: ``absent`` is a way that torch has not, ``error`` why they did not.

    Attributes:
        sum: what they have added.
        version: of the library.
    """

    absent: bool = False
    error: str | None = None
    sum: float | None = None
    version: str | None = None


@dataclass(frozen=True)
class Host:
    """This machine's name and its addresses, or why it has none."""

    name: str
    addresses: tuple[str, ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class Folder:
    """What can be done where a run will be.

    Attributes:
        path: of the folder that is there: the run's own, or the nearest above it.
        kind: of its file system; None where the system does not say.
        free: bytes that this user may write.
        files: that may still be made; None of a file system that does not count them.
        error: why nothing can be written.
        speed: bytes a second, each piece flushed to the disk.
        skew: seconds by which its clock is ahead of this machine's.
        links: whether a file can have a second name.
        renames: whether a file can take another's name in one step.
        syncs: whether names can be flushed to the disk.
        locks: whether files can be locked.
    """

    path: str
    kind: str | None
    free: int
    files: int | None = None
    error: str | None = None
    speed: float | None = None
    skew: float | None = None
    links: bool | None = None
    renames: bool | None = None
    syncs: bool | None = None
    locks: bool | None = None


def torch(limit: float) -> Torch | Unknown:
    """Return what torch says of itself, at the latest after ``limit`` seconds."""
    settings = next((os.environ[name] for name in _ALLOCATOR if os.environ.get(name)), None)
    told = _ask("torch_build", *([] if settings is None else [settings]), limit=limit)
    if isinstance(told, Unknown):
        return told
    return Torch(**told | {"arches": tuple(told.get("arches", ()))})


def compiled(limit: float) -> Compiled | Unknown:
    """Return whether torchvision's compiled parts load."""
    told = _ask("torchvision_build", limit=limit)
    return told if isinstance(told, Unknown) else Compiled(**told)


def gloo(limit: float) -> Group | Unknown:
    """Let two processes meet over 127.0.0.1."""
    told = _ask("gloo", str(limit), limit=limit)
    return told if isinstance(told, Unknown) else Group(**told)


def nccl(limit: float, card: int) -> Group | Unknown:
    """Let one process compute by NCCL on a card, by its index as torch counts."""
    told = _ask("nccl", str(limit), str(card), limit=limit)
    return told if isinstance(told, Unknown) else Group(**told)


def host(limit: float) -> Host | Unknown:
    """Return this machine's name and addresses."""
    told = _ask("hostname", limit=limit)
    if isinstance(told, Unknown):
        return told
    return Host(**told | {"addresses": tuple(told.get("addresses", ()))})


def folder(out: Path, limit: float) -> Folder | Unknown:
    """Write where a run's folder is or will be, and take everything away again."""
    try:
        absolute = out.absolute()
    except OSError as error:  # the folder that this program is in was removed
        return Folder(path=str(out), kind=None, free=0, error=error.strerror)
    told = _ask("folder", str(absolute), limit=limit)
    if isinstance(told, Unknown):
        return told
    mounts = ""
    with contextlib.suppress(OSError):
        mounts = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
    return Folder(kind=file_system(told["path"], mounts), **told)


def file_system(path: str, mounts: str) -> str | None:
    """Return the kind of file system that a path is on, by the lines of ``/proc/self/mounts``."""
    best, kind = "", None
    for line in mounts.splitlines():
        _device, point, named, *_ = line.split(" ")
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), point)
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):  # of two in one place the later is on top
            best, kind = point, named
    return kind


def _ask(child: str, *words: str, limit: float) -> dict[str, Any] | Unknown:
    command = [sys.executable, "-P", str(_CHILDREN / f"{child}.py"), *words]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        out, said = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        return Unknown("timeout", {"seconds": f"{limit:g}"})
    finally:
        # Asked first, so that it takes away what it has made. One that waits for a dead file
        # system is ended by neither.
        for end in (process.terminate, process.kill):
            if process.poll() is None:
                end()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.communicate(timeout=1)
    if process.returncode < 0:
        return Unknown("signal", {"signal": _name(-process.returncode)})
    if process.returncode:
        return Unknown("exit", {"status": process.returncode, "error": _short(_last(said))})
    last = _last(out)
    with contextlib.suppress(ValueError):
        told = json.loads(last or "")
        if isinstance(told, dict):
            return told
    return Unknown("error", {"error": _short(last)})


def _last(text: bytes) -> str | None:
    lines = text.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else None


def _short(line: str | None) -> str | None:
    return None if line is None else line[-_LONGEST:]


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)

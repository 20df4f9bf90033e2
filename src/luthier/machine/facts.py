"""What this machine has, as plain frozen values; each function asks for one thing. No torch."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shutil
import socket
import struct
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from luthier import accelerators
from luthier.accelerators import Leases, Survey
from luthier.errors import LeaseError
from luthier.machine.allowed import (
    cores_allowed,
    cpu_quota,
    memory_allowed,
    memory_limit,
    processes_left,
)

_SHARED = Path("/dev/shm")  # noqa: S108 - where the C library keeps shared memory
_MEMINFO = Path("/proc/meminfo")
_PCI = Path("/sys/bus/pci/devices")
_NVIDIA, _DISPLAY = "0x10de", "0x03"  # a vendor, and the class of what draws or computes
_RELEASE = 1_767_225_600  # the first second of 2026: no clock is before this file
TORCHRUN_PORT = 29500
_CALL = 5.0  # seconds for a call from this machine to itself


@dataclass(frozen=True)
class Python:
    """The interpreter: its version, the bits of a pointer, and the system that it runs on."""

    version: str
    bits: int
    system: str


def python() -> Python:
    """Return which Python this is."""
    system = f"{platform.system()} {platform.machine()}"
    return Python(platform.python_version(), 8 * struct.calcsize("P"), system)


@dataclass(frozen=True)
class Package:
    """A package that luthier asks for.

    Attributes:
        name: as its index knows it.
        wanted: the versions that are asked for, such as ``">=2.4"``.
        version: that is installed; None where it is not.
        extra: of luthier, that asks for it; None where luthier itself does.
    """

    name: str
    wanted: str
    version: str | None
    extra: str | None = None


def packages(distribution: str = "luthier") -> tuple[Package, ...]:
    """Return what a distribution asks for, and what of it is installed.

    Raises:
        PackageNotFoundError: the distribution itself is not installed.
    """
    own = importlib.metadata.metadata(distribution)
    found: dict[tuple[str, str], Package] = {}
    for line in own.get_all("Requires-Dist") or ():
        asked = Requirement(line)
        extra = next(
            (name for name in own.get_all("Provides-Extra") or () if _belongs(asked, name)), None
        )
        if asked.name != distribution and (extra is not None or _belongs(asked, "")):
            package = Package(asked.name, str(asked.specifier), version_of(asked.name), extra)
            found.setdefault((package.name, package.wanted), package)
    return tuple(found.values())


def _belongs(asked: Requirement, extra: str) -> bool:
    """Tell whether a requirement holds here with an extra, and (of one) not without."""
    if asked.marker is None:
        return not extra
    return asked.marker.evaluate({"extra": extra}) and not (
        extra and asked.marker.evaluate({"extra": ""})
    )


def version_of(name: str) -> str | None:
    """Return the version of an installed package, or None."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(name)
    return None


@dataclass(frozen=True)
class Vision:
    """The installed torchvision, and the torch that it says it was built for; None is unknown."""

    version: str | None
    built_for: str | None


def vision() -> Vision:
    """Return what torchvision's metadata say; it is not imported."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for line in importlib.metadata.requires("torchvision") or ():
            asked = Requirement(line)
            exact = [one.version for one in asked.specifier if one.operator == "=="]
            if asked.name == "torch" and exact:
                return Vision(version_of("torchvision"), exact[0])
    return Vision(version_of("torchvision"), None)


@dataclass(frozen=True)
class Gpus:
    """NVIDIA's cards as the driver tells of them, and how many the bus has whatever it tells."""

    survey: Survey
    on_bus: int


def gpus(bus: Path = _PCI) -> Gpus:
    """Return what the driver and the bus tell."""
    return Gpus(accelerators.survey(), sum(map(_is_nvidia, bus.glob("*"))))


def _is_nvidia(device: Path) -> bool:
    with contextlib.suppress(OSError):
        vendor = (device / "vendor").read_text(encoding="ascii").strip()
        return vendor == _NVIDIA and (device / "class").read_text(encoding="ascii").startswith(
            _DISPLAY
        )
    return False


@dataclass(frozen=True)
class Cpus:
    """Cores: of the machine, that this process may use, and the quota's worth of time, if any."""

    machine: int
    allowed: int
    quota: float | None


def cpus() -> Cpus:
    """Return how many cores there are."""
    return Cpus(os.cpu_count() or 1, cores_allowed(), cpu_quota())


@dataclass(frozen=True)
class Memory:
    """Bytes of memory. None is unknown, and of ``limit`` that there is none.

    Attributes:
        total: of the machine.
        limit: of this process's control groups.
        available: that can still be taken, under the limit.
        swap: all of it.
        swapped: what of it is used.
    """

    total: int | None
    limit: int | None
    available: int | None
    swap: int | None = None
    swapped: int | None = None


def memory(meminfo: Path = _MEMINFO) -> Memory:
    """Return how much memory there is."""
    told = {}
    with contextlib.suppress(OSError, ValueError):
        for line in meminfo.read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(":")
            told[name] = int(value.split()[0]) * 1024
    swap, unused = told.get("SwapTotal"), told.get("SwapFree")
    return Memory(
        total=told.get("MemTotal"),
        limit=memory_limit(),
        available=memory_allowed(meminfo=meminfo),
        swap=swap,
        swapped=None if swap is None or unused is None else swap - unused,
    )


@dataclass(frozen=True)
class Space:
    """A folder's file system: its bytes, those that are free, and whether one may write there."""

    path: str
    size: int
    free: int
    writable: bool


def shared_memory(path: Path = _SHARED) -> Space | None:
    """Return the file system of shared memory; None on a system that keeps it elsewhere."""
    if platform.system() != "Linux":
        return None
    return space(path) if path.is_dir() else Space(str(path), 0, 0, writable=False)


def temporary() -> Space | None:
    """Return the file system of temporary files; None where no folder can be written to."""
    with contextlib.suppress(FileNotFoundError):
        return space(Path(tempfile.gettempdir()))
    return None


def space(path: Path) -> Space:
    """Return the file system of a folder that is there."""
    usage = shutil.disk_usage(path)
    return Space(str(path), usage.total, usage.free, os.access(path, os.W_OK | os.X_OK))


@dataclass(frozen=True)
class Limit:
    """What the system allows now, and what a process may raise it to; None is no limit."""

    soft: int | None
    hard: int | None


def open_files() -> Limit | None:
    """Return how many files may be open; None on a system without such limits."""
    return _limit("RLIMIT_NOFILE")


def _limit(name: str) -> Limit | None:
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ImportError:
        return None
    soft, hard = resource.getrlimit(getattr(resource, name))
    none = resource.RLIM_INFINITY
    return Limit(None if soft == none else soft, None if hard == none else hard)


@dataclass(frozen=True)
class Processes:
    """How many more processes and threads may begin, and what limits them; None is no limit."""

    left: int | None
    by: str | None = None


def processes() -> Processes:
    """Return how many more processes this user's programs may begin here."""
    rooms = [(processes_left(), "pids.max")]
    limit = _limit("RLIMIT_NPROC")
    if limit is not None and limit.soft is not None and os.getuid():  # root has no such limit
        rooms.append((max(0, limit.soft - sum(_own_tasks())), "ulimit -u"))
    return min(
        (Processes(left, by) for left, by in rooms if left is not None),
        key=lambda room: room.left or 0,
        default=Processes(None),
    )


def _own_tasks() -> Iterator[int]:
    """Yield the number of threads of each of this user's processes."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if folder.stat().st_uid == os.getuid():
                yield len(os.listdir(folder / "task"))


@dataclass(frozen=True)
class Ports:
    """Why no process can be called on 127.0.0.1, if so, and whether torchrun's port is free."""

    error: str | None
    torchrun_free: bool


def ports() -> Ports:
    """Listen on 127.0.0.1, and call."""
    try:
        _listen_and_call(0)
    except OSError as error:
        return Ports(error.strerror or str(error), torchrun_free=False)
    try:
        _listen_and_call(TORCHRUN_PORT)
    except OSError:
        return Ports(None, torchrun_free=False)
    return Ports(None, torchrun_free=True)


def _listen_and_call(port: int) -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        socket.create_connection(listener.getsockname(), _CALL).close()


@dataclass(frozen=True)
class Clock:
    """Clocks.

    Attributes:
        now: seconds since 1970.
        built: when this program was made or installed: it is later now.
        jump: seconds by which the wall's clock went otherwise than a stopwatch, meanwhile.
    """

    now: float
    built: float
    jump: float


class Watch:
    """A look at the clocks; ``clock`` tells how they have gone since."""

    def __init__(self) -> None:
        self._wall, self._steady = time.time(), time.monotonic()

    def clock(self) -> Clock:
        """Return how the clocks stand."""
        now = time.time()
        jump = (now - self._wall) - (time.monotonic() - self._steady)
        return Clock(now, max(_RELEASE, Path(__file__).stat().st_mtime), jump)


@dataclass(frozen=True)
class LeaseFolder:
    """Where leases are kept, and why they cannot be; None where they can."""

    path: str | None
    error: str | None


def leases() -> LeaseFolder:
    """Lock a file where leases are kept."""
    path = None
    try:
        found = Leases()
        path = str(found.folder)
        found.check()
    except LeaseError as error:
        return LeaseFolder(path, error.what)
    return LeaseFolder(path, None)


@dataclass(frozen=True)
class Variables:
    """The environment, and which libraries that ``LD_PRELOAD`` names are not there."""

    values: Mapping[str, str]
    not_there: tuple[str, ...]


def variables() -> Variables:
    """Return the environment of this process."""
    named = os.environ.get("LD_PRELOAD", "").replace(":", " ").split()
    # A name without a slash is looked for by the loader.
    gone = [name for name in named if "/" in name and "$" not in name and not Path(name).exists()]
    return Variables(dict(os.environ), tuple(gone))

"""NVIDIA's cards, as its management library tells of them (NVML, by ``nvidia-ml-py``).

Whatever a card or a driver cannot say is None: nothing here fails because of one answer.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pynvml

from luthier.accelerators.values import Accelerator, Driver, Process, Survey

_LINKS = 18  # NVLinks that a card can have
_SWITCH = "switch"
_BESIDE = 1  # distances: NVLink is 0, and what NVML calls the same board comes after it


def survey() -> Survey:
    """Ask the driver what there is."""
    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError, OSError) as error:
        missing = isinstance(error, pynvml.NVMLError_LibraryNotFound)
        return Survey(
            notes=(_no_driver(error),), driver=None if missing else Driver(error=str(error))
        )
    try:
        return _survey()
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _no_driver(error: Exception) -> str:
    if isinstance(error, pynvml.NVMLError_LibraryNotFound):
        return "no NVIDIA driver: the library libnvidia-ml is not there"
    return f"the NVIDIA driver does not answer: {error}"


class _Found(NamedTuple):
    handle: Any
    card: Accelerator
    parts: tuple[Accelerator, ...]


def _survey() -> Survey:
    notes: list[str] = []
    found: list[_Found] = []
    for index in range(_ask(pynvml.nvmlDeviceGetCount) or 0):
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            card = _device(handle, index)
        except pynvml.NVMLError as error:
            notes.append(f"card {index} does not answer: {error}")
            continue
        found.append(_Found(handle, card, tuple(_instances(handle, card))))
    # NVML counts in the order of the bus; so does CUDA where it is asked to.
    accelerators = itertools.chain.from_iterable((one.card, *one.parts) for one in found)
    return Survey(tuple(accelerators), tuple(notes), dict(_distances(found)), _driver())


def _driver() -> Driver:
    version = _ask(pynvml.nvmlSystemGetDriverVersion)
    cuda = _ask(pynvml.nvmlSystemGetCudaDriverVersion)
    return Driver(
        version=None if version is None else _text(version),
        cuda=None if cuda is None else (cuda // 1000, cuda % 1000 // 10),
    )


def _device(handle: Any, index: int) -> Accelerator:
    memory = _ask(pynvml.nvmlDeviceGetMemoryInfo, handle)
    rates = _ask(pynvml.nvmlDeviceGetUtilizationRates, handle)
    bus = _ask(pynvml.nvmlDeviceGetPciInfo, handle)
    return Accelerator(
        index=index,
        uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
        name=_text(_ask(pynvml.nvmlDeviceGetName, handle) or "unknown"),
        bus_id=_text(bus.busId) if bus is not None else None,
        total=memory and int(memory.total),
        free=memory and int(memory.free),
        utilisation=None if rates is None else int(rates.gpu),
        temperature=_ask(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
        capability=_ask(pynvml.nvmlDeviceGetCudaComputeCapability, handle),
        processes=_processes(handle),
        is_split=_is_split(handle),
    )


def _is_split(handle: Any) -> bool:
    mode = _ask(pynvml.nvmlDeviceGetMigMode, handle)
    return mode is not None and mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE


def _instances(handle: Any, card: Accelerator) -> Iterator[Accelerator]:
    if not card.is_split:
        return
    for number in range(_ask(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        part = _ask(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, number)
        if part is None:  # there are fewer than there could be
            continue
        with contextlib.suppress(pynvml.NVMLError):
            uuid = _text(pynvml.nvmlDeviceGetUUID(part))
            memory = _ask(pynvml.nvmlDeviceGetMemoryInfo, part)
            slices = (
                _ask(pynvml.nvmlDeviceGetGpuInstanceId, part),
                _ask(pynvml.nvmlDeviceGetComputeInstanceId, part),
            )
            yield Accelerator(
                index=card.index,
                uuid=uuid,
                name=_text(_ask(pynvml.nvmlDeviceGetName, part) or card.name),
                bus_id=card.bus_id,
                total=memory and int(memory.total),
                free=memory and int(memory.free),
                temperature=card.temperature,
                capability=card.capability,
                processes=_processes(part),
                instance=number,
                card=card.uuid,
                legacy=None if None in slices else f"MIG-{card.uuid}/{slices[0]}/{slices[1]}",
            )


def _processes(handle: Any) -> tuple[Process, ...] | None:
    lists = [
        _ask(pynvml.nvmlDeviceGetComputeRunningProcesses, handle),
        _ask(pynvml.nvmlDeviceGetGraphicsRunningProcesses, handle),
    ]
    if lists == [None, None]:
        return None
    by_pid = {one.pid: one for some in lists for one in some or ()}
    return tuple(_process_of(pid, by_pid[pid].usedGpuMemory) for pid in sorted(by_pid))


def _process_of(pid: int, used: int | None) -> Process:
    """Add to a process's number what this system knows of it; in a container that is nothing."""
    folder = Path("/proc") / str(pid)
    user = name = None
    with contextlib.suppress(OSError, KeyError, ImportError):
        import pwd  # noqa: PLC0415 - not on every system

        name = (folder / "comm").read_text(encoding="utf-8").strip()
        user = pwd.getpwuid(os.stat(folder).st_uid).pw_name
    return Process(int(pid), user, name, None if used is None else int(used))


def _distances(found: Sequence[_Found]) -> Iterator[tuple[tuple[str, str], int]]:
    ends = [set(_link_ends(card.handle)) for card in found]
    for (one, mine), (other, theirs) in itertools.combinations(zip(found, ends, strict=True), 2):
        names = min(one.card.uuid, other.card.uuid), max(one.card.uuid, other.card.uuid)
        if other.card.bus_id in mine or one.card.bus_id in theirs or _SWITCH in mine & theirs:
            yield names, 0
            continue
        level = _ask(pynvml.nvmlDeviceGetTopologyCommonAncestor, one.handle, other.handle)
        if level is not None:
            yield names, _BESIDE + int(level)


def _link_ends(handle: Any) -> Iterator[str]:
    """Yield the bus addresses of what a card's NVLinks lead to, and ``_SWITCH`` for a switch."""
    for link in range(_LINKS):
        state = _ask(pynvml.nvmlDeviceGetNvLinkState, handle, link)
        if state is None:
            return  # it has no such link, nor any after it
        if state != pynvml.NVML_FEATURE_ENABLED:
            continue
        kind = _ask(pynvml.nvmlDeviceGetNvLinkRemoteDeviceType, handle, link)
        remote = _ask(pynvml.nvmlDeviceGetNvLinkRemotePciInfo, handle, link)
        if kind == pynvml.NVML_NVLINK_DEVICE_TYPE_SWITCH:
            yield _SWITCH
        elif remote is not None:
            yield _text(remote.busId)


def _ask(function: Callable[..., Any], *given: Any) -> Any:
    """Return an answer; None where this card or this driver has none."""
    try:
        return function(*given)
    except (pynvml.NVMLError, UnicodeDecodeError):
        return None


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value

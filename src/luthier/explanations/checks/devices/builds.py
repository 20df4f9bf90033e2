"""Devices that are not there, drivers, and versions that do not fit together."""

from __future__ import annotations

import re

from luthier.explanations.checks.devices.common import (
    TORCHS,
    said,
    unless_by_others,
)
from luthier.explanations.values import Case, Facts

_ASKED = re.compile(r"map_location\s*=\s*(?P<asked>[\w.]+\([^)]*\)|[^,)]+)")
_BUILDS = {11: "cu118", 12: "cu126"}  # that run on every driver of their major version
_PACKAGES = {"flash_attn_2_cuda": "flash-attn", "selective_scan_cuda": "mamba-ssm"}


@unless_by_others
def loaded(case: Case) -> Facts:
    """Return where the user's call of ``torch.load`` wants the file to be."""
    found = (_ASKED.search(frame.source) for frame in reversed(case.raised.own))
    asked = next((match["asked"].strip() for match in found if match), None)
    backend = case.found.get("backend", "").lower()
    return {
        "asked": asked,
        "backend": backend,
        "cpu_torch": case.here.torch if case.here.cuda_build is False else None,
    }


@unless_by_others
def in_a_worker(case: Case) -> Facts | None:
    """Return where a data set used CUDA in a worker of a DataLoader."""
    if not any("_utils/worker" in frame.file for frame in case.raised.frames):
        return None
    own = case.raised.own
    return {"function": own[-1].function, "line": own[-1].line} if own else {}


@unless_by_others
def ordinal(case: Case) -> Facts:
    """Return the device that the user's line names."""
    found = (re.search(r"cuda:\d+", frame.source) for frame in reversed(case.raised.own))
    return {"asked": next((match[0] for match in found if match), None)}


@unless_by_others
def data_parallel(case: Case) -> Facts | None:
    """Return facts where DataParallel or its like asks for a device's properties."""
    is_it = any(re.search(r"torch/(?:nn/parallel|cuda)/", f.file) for f in case.raised.frames)
    return {} if is_it else None


@unless_by_others
def backend(case: Case) -> Facts:
    """Return the device that torch is built without."""
    return {"name": next(iter(case.found.values())).lower()}


@unless_by_others
def device_name(case: Case) -> Facts:
    """Return what was given as a device, and what was probably meant."""
    given = case.found.get("text", case.found.get("word", ""))
    parts = re.fullmatch(r"(?P<kind>[a-z]+?)[\s:_]*(?P<number>\d*)", given.lower())
    kind = parts and {"gpu": "cuda", "nvidia": "cuda"}.get(parts["kind"], parts["kind"])
    if kind not in ("cpu", "cuda", "mps", "xpu"):
        return {"given": given}
    number = parts["number"] if parts and kind != "cpu" else ""
    return {"given": given, "meant": f"{kind}:{number}" if number else kind}


@unless_by_others
def driver(case: Case) -> Facts:
    """Return the CUDA that a driver goes up to, and torch's builds of that major version."""
    number = case.found.get("number")
    if number is None:
        return {}
    major, minor = int(number) // 1000, int(number) % 1000 // 10
    return {"cuda": f"{major}.{minor}", "major": major, "tag": _BUILDS.get(major)}


@unless_by_others
def not_started(case: Case) -> Facts:
    """Return what CUDA's own number of the error says."""
    kind = {"802": "fabric", "2": "full"}.get(case.found.get("number", ""))
    return {kind: case.found["told"]} if kind else {}


@unless_by_others
def hidden(case: Case) -> Facts:
    """Return the variable that hides all devices of this machine, where it does."""
    here = case.here
    is_it = here.gpus and here.visible_gpus == 0
    return {"hiding": here.cuda_visible_devices if is_it else None}


@unless_by_others
def generator(case: Case) -> Facts:
    """Return the function that drew for a DataLoader, where one did."""
    draws = (frame for frame in case.raised.frames if "data/sampler" in frame.file)
    sampler = next(draws, None)
    return {"sampler": sampler and "DataLoader", "drawing": sampler and sampler.function}


@unless_by_others
def of_gpu(case: Case) -> Facts:
    """Return whether what was to be pinned is on a GPU."""
    return {"gpu_type": case.found["type"] if "cuda" in case.found["type"] else None}


@unless_by_others
def pinned(case: Case) -> Facts | None:
    """Return facts where memory was to be pinned."""
    frames = case.raised.frames
    is_it = any("pin_memory" in frame.function + frame.source for frame in frames)
    return said(case) if is_it else None


@unless_by_others
def extension(case: Case) -> Facts:
    """Return the package that a compiled file belongs to."""
    found = re.search(r"site-packages/(?P<folder>\w+)", case.raised.message)
    folder = found["folder"] if found else case.found["library"].partition(".")[0]
    is_torchs = folder in ("torch", "nvidia") or folder.startswith("lib")
    return {"package": None if is_torchs else _PACKAGES.get(folder, folder)}


@unless_by_others
def of_opencv(case: Case) -> Facts | None:
    """Return facts where OpenCV was imported."""
    return {} if any(re.search(r"[/\\]cv2[/\\]", f.path) for f in case.raised.frames) else None


@unless_by_others
def near_torch(case: Case) -> Facts | None:
    """Return facts where torch, or a library that it loads, is what did not load."""
    inside = any(TORCHS.search(frame.path) for frame in case.raised.frames)
    return {} if inside or re.search(r"torch|nvidia|triton", case.raised.message) else None


@unless_by_others
def dll(case: Case) -> Facts | None:
    """Return facts where a DLL of torch did not load."""
    inside = any(TORCHS.search(frame.path) for frame in case.raised.frames)
    if not (inside or "torch" in case.raised.message):
        return None
    return {"paging": "WinError 1455" if case.found.get("number") == "1455" else None}

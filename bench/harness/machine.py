"""On what a benchmark ran: facts that explain a figure, and none that name a machine."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from harness.environment import ROOT

_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
_PACKAGES = (
    *("torch", "torchvision", "luthier", "lightning", "transformers", "accelerate", "fastai"),
    *("pytorch-ignite", "timm", "numpy", "pillow"),
)
_ASK = """
import importlib.metadata as m, json, sys, torch
found = {name: m.version(name) for name in sys.argv[1:]}
gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
print(json.dumps([found, torch.get_num_threads(), gpu]))
"""


def facts(python: Path) -> dict[str, Any]:
    """Return the facts as plain JSON values.

    Args:
        python: of the environment whose versions are asked for.
    """
    asked = [str(python), "-c", _ASK, *_PACKAGES]
    answer = subprocess.run(asked, check=True, capture_output=True, text=True).stdout
    versions, threads, accelerator = json.loads(answer)
    return {
        **_processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "accelerator": accelerator or "none",
        "system": " ".join([platform.system(), *platform.release().split(".")[:1]]),
        "versions": {"python": platform.python_version(), "commit": _commit(), **versions},
    }


def _processor() -> dict[str, str]:
    source = Path("/proc/cpuinfo")
    lines = source.read_text(encoding="utf-8").splitlines() if source.exists() else []
    known = dict(line.partition(":")[::2] for line in reversed(lines))
    known = {name.strip(): value.strip() for name, value in known.items()}
    flags = [flag for flag in _FLAGS if flag in known.get("flags", "").split()]
    return {"processor": known.get("model name", platform.machine()), "has": " ".join(flags)}


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude", "*"]
    found = subprocess.run(command, check=False, capture_output=True, text=True)
    return found.stdout.strip() or "unknown"

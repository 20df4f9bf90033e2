"""What a run did at each step, as hashes: how ``prove`` finds where two runs part.

Switched on by the environment, since the processes that are traced are started by ``prove``.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

TRACE = "LUTHIER_TRACE"  # "steps", or "kernels": name operations that are not deterministic
STEPS, KERNELS = "trace.jsonl", "kernels.txt"


class Trace:
    """Writes a line for every step: hashes of its batch and of the weights before it.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        # A line at a time, so that what a kill leaves is whole; the process's end closes it.
        self._file = (folder / STEPS).open("a", encoding="utf-8", buffering=1)

    def step(self, number: int, batch: Any, weights: Mapping[str, torch.Tensor]) -> None:
        """Take note of a step that begins.

        Args:
            number: steps before it.
            batch: what it learns from.
            weights: by name.
        """
        line = {"step": number, "data": digest(batch), "weights": digest(dict(weights))}
        self._file.write(json.dumps(line) + "\n")


def open_trace(folder: Path) -> Trace | None:
    """Return the trace of a run, if one is asked for."""
    wanted = os.environ.get(TRACE)
    if wanted == "kernels":
        _name_kernels(folder / KERNELS)
    return Trace(folder) if wanted else None


def digest(value: Any) -> str:
    """Return a hash of every bit of a batch: tensors and plain values in any nesting."""
    whole = hashlib.blake2b(digest_size=16)
    _update(whole, value)
    return whole.hexdigest()


def _update(whole: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        flat = value.detach().to("cpu").contiguous().flatten()
        whole.update(f"{value.dtype}{tuple(value.shape)}".encode())
        whole.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            whole.update(repr(key).encode())
            _update(whole, item)
    elif isinstance(value, list | tuple):
        for item in value:
            _update(whole, item)
    else:
        whole.update(repr(value).encode())


def _name_kernels(path: Path) -> None:
    # Told to be deterministic and only warn, torch names each operation that it cannot make so.
    torch.use_deterministic_algorithms(True, warn_only=True)
    shown = warnings.showwarning
    seen: set[str] = set()

    def show(message: Warning | str, *facts: Any, **more: Any) -> None:
        text = str(message).split(" Alternatively")[0].split(" You can")[0]
        if "deterministic" not in text:
            shown(message, *facts, **more)
        elif text not in seen:
            seen.add(text)
            with path.open("a", encoding="utf-8") as file:
                file.write(text + "\n")

    warnings.showwarning = show


def read_trace(folder: Path) -> dict[int, list[tuple[str, str]]]:
    """Return what each step saw, (data, weights), once for every time that it was taken."""
    found: dict[int, list[tuple[str, str]]] = {}
    path = folder / STEPS
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            entry = json.loads(line)
        except ValueError:  # a kill cut it short
            continue
        found.setdefault(entry["step"], []).append((entry["data"], entry["weights"]))
    return found

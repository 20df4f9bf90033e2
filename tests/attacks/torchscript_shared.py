"""Forty modules, each of which holds the next one twice: a million million names.

Each name is on the file's budget.
"""

from __future__ import annotations

from pathlib import Path

from torch_by_hand import Scripted, torchscript


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    module = Scripted(training=True)
    for _ in range(40):
        module = Scripted(a=module, b=module)
    return torchscript(folder / "weights.pt", module)

"""A module that holds itself: its names have no end.

Modules are followed 1000 levels deep.
"""

from __future__ import annotations

from pathlib import Path

from torch_by_hand import Scripted, torchscript


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    module = Scripted()
    module.attributes["a"] = module
    return torchscript(folder / "weights.pt", module)

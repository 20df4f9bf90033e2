"""A distributed checkpoint whose tensor lies in a file of another folder.

The name of a file is a name in the folder and no path.
"""

from __future__ import annotations

from pathlib import Path

import torch

from torch_by_hand import distributed, tensor_of


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    (folder.parent / "secret.distcp").write_bytes(b"secret")
    stored = {("a", (0,)): ("../secret.distcp", torch.ones(2))}
    return distributed(folder, {"a": tensor_of((2,), [((0,), (2,))])}, stored)

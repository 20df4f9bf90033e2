"""A file of a distributed checkpoint that is a link to a file elsewhere.

Links are not followed out of the folder.
"""

from __future__ import annotations

from pathlib import Path

import torch

from torch_by_hand import distributed, tensor_of


def build(folder: Path, marker: Path) -> Path:  # noqa: ARG001
    described = {"a": tensor_of((2,), [((0,), (2,))])}
    distributed(folder, described, {("a", (0,)): ("__0_0.distcp", torch.ones(2))})
    secret = folder.parent / "secret"
    (folder / "__0_0.distcp").rename(secret)
    (folder / "__0_0.distcp").symlink_to(secret)
    return folder

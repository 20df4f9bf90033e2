"""Payloads in both places where a distributed checkpoint has pickles: its metadata and an object.

They are read in the same inert way as every other.
"""

from __future__ import annotations

from pathlib import Path

from torch.distributed.checkpoint.metadata import BytesStorageMetadata

from torch_by_hand import distributed
from zips_by_hand import Payload


def build(folder: Path, marker: Path) -> Path:
    stored = {("a", None): ("__0_0.distcp", Payload(marker))}
    return distributed(folder, {"a": BytesStorageMetadata()}, stored, Payload(marker))

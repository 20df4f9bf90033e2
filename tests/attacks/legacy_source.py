"""A module in torch's old format, which carries the source of its class: torch compared it, and
warned, and some loaders ran it.

The source is skipped.
"""

from __future__ import annotations

from pathlib import Path

import torch

from torch_by_hand import Reference, legacy


def build(folder: Path, marker: Path) -> Path:
    source = f"__import__('os').mkdir({str(marker)!r})"
    module = ("module", torch.nn.Linear, "linear.py", source)
    path = folder / "weights.pt"
    path.write_bytes(legacy([module], b"", {"class": Reference(0)}, []))
    return path

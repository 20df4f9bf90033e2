"""Code of TorchScript in which the two lines that are read are huge, open, or something else.

They are matched as text, in one pass; nothing of the code is run.
"""

from __future__ import annotations

from pathlib import Path

from torch_by_hand import CODE, Scripted, torchscript


def build(folder: Path, marker: Path) -> Path:
    lines = [
        CODE,
        f"  __import__('os').mkdir({str(marker)!r})",
        "  __parameters__ = [" + '"a", ' * 100_000,
        "  __buffers__ = [" + "[" * 100_000 + "]",
        "class " + "M" * 100_000 + "(Module):",
    ] * 10
    return torchscript(folder / "weights.pt", Scripted(training=True), "\n".join(lines))

"""The photos and start weights of a benchmark."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from harness.environment import ROOT

SHARED = Path(os.environ.get("LUTHIER_SHARED", ROOT.parent / "shared")) / "data"
_RANDOM = """
import sys, torch
from luthier.vision import load
torch.manual_seed(0)
model = load("torchvision.models").get_model(sys.argv[1], weights=None)
torch.save(model.state_dict(), sys.argv[2])
"""


def few(data: Path, train: int, val: int, into: Path) -> Path:
    """Return a folder of links to so many photos of each class, the first ones by name."""
    shutil.rmtree(into, ignore_errors=True)
    for split, count in {"train": train, "val": val}.items():
        for group in sorted(path for path in (data / split).iterdir() if path.is_dir()):
            made = into / split / group.name
            made.mkdir(parents=True)
            jpegs = sorted(p for p in group.iterdir() if p.suffix.lower() in (".jpg", ".jpeg"))
            for photo in jpegs[:count]:
                (made / photo.name).symlink_to(photo.resolve())
    return into


def start_weights(model: str, python: Path, scratch: Path) -> Path:
    """Return the published weights where they are at hand, else random ones, made once.

    Random ones serve for timing: nothing here depends on a weight's value but the accuracy.
    """
    published = sorted((SHARED / "weights").glob(f"{model}-*.pth"))
    if published:
        return published[0]
    made = scratch / f"{model}_random.pth"
    if not made.exists():
        subprocess.run([str(python), "-c", _RANDOM, model, str(made)], check=True)
    return made

"""torchvision is importable whether or not its compiled part fits torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOADED = """
import luthier.vision
luthier.vision.load()
import torchvision
import torchvision.models, torchvision.transforms.v2
assert luthier.vision.load("torchvision.models") is torchvision.models
print(torchvision.models.get_model("alexnet", weights=None).__class__.__name__)
"""
TWICE = """
import luthier.vision
assert luthier.vision.load() is luthier.vision.load()
luthier.vision.load("torchvision.transforms.v2")
"""
AFTER = """
import sys, luthier.vision
assert "torchvision" not in sys.modules
"""
LACKING = """
import luthier.vision
try:
    luthier.vision.load("torchvision.no_such_part")
except ModuleNotFoundError as error:
    print(error.name)
"""


@pytest.mark.parametrize(
    ("script", "prints"),
    [
        (LOADED, "AlexNet"),
        (TWICE, ""),
        (AFTER, ""),
        (LACKING, "torchvision.no_such_part"),
    ],
    ids=["imported after", "loaded twice", "not imported by itself", "no such part"],
)
def test_torchvision_loads_in_a_fresh_process(script: str, prints: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert (done.returncode, done.stdout.strip()) == (0, prints)

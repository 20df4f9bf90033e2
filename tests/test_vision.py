"""torchvision is importable whether or not its compiled part fits torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

BEFORE_TORCHVISION = """
import sys, luthier.vision
assert "torchvision" not in sys.modules
assert luthier.vision.load() is luthier.vision.load()
import torchvision
import torchvision.models, torchvision.transforms.v2
assert luthier.vision.load("torchvision.models") is torchvision.models
try:
    luthier.vision.load("torchvision.no_such_part")
except ModuleNotFoundError as error:
    print(error.name)
"""
BY_A_PART = """
import luthier.vision
models = luthier.vision.load("torchvision.models")
print(type(models.get_model("alexnet", weights=None)).__name__)
"""


@pytest.mark.parametrize(
    ("script", "prints"),
    [(BEFORE_TORCHVISION, "torchvision.no_such_part"), (BY_A_PART, "AlexNet")],
    ids=["before torchvision", "by a part"],
)
def test_torchvision_loads_in_a_fresh_process(script: str, prints: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert (done.returncode, done.stdout.strip()) == (0, prints)

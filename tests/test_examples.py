"""The examples: few lines for each loop, and the same bits after kills."""

from __future__ import annotations

import ast
import importlib
import os
import random
import runpy
import sys
from pathlib import Path

import kills
import pytest

from luthier import vision
from luthier.run.peers import REDIRECT

EXAMPLES = sorted(
    path
    for path in (Path(__file__).resolve().parents[1] / "examples").glob("*.py")
    if not path.stem.startswith("log_")  # writers for finetune, and no loops
)
NEEDS = {
    "fabric": ("lightning_fabric", "Fabric"),
    "hugging_face": ("transformers", "GPT2LMHeadModel"),
}
EPOCHS = {
    "accumulation": 100,
    "amp": 150,
    "fabric": 150,
    "gan": 100,
    "hugging_face": 30,
    "plain": 40,
}  # some seconds of training
KILLS = 3


def need(example: Path) -> None:
    """Import what an example needs, here: it runs in a process forked from this one."""
    if example.stem not in NEEDS:
        return
    package, name = NEEDS[example.stem]
    vision.load("torchvision")
    try:
        getattr(importlib.import_module(package), name)
    except ImportError as error:
        pytest.skip(f"{package} is not installed or does not load: {error}")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_five_lines_make_a_loop_resumable(example: Path) -> None:
    text = example.read_text(encoding="utf-8")
    tree = ast.parse(text)
    marked = {n for n, line in enumerate(text.splitlines(), start=1) if line.endswith("# luthier")}
    assert len(marked) == 5, "import, Run, epochs, batches, log"
    # Whatever speaks of luthier or its run begins on a line that is marked.
    words = {
        node.lineno
        for node in ast.walk(tree)
        if (isinstance(node, ast.Name) and node.id in ("run", "luthier"))
        or (isinstance(node, ast.Import) and node.names[0].name == "luthier")
    }
    assert words == marked


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_that_is_killed_ends_with_the_same_bits(tmp_path: Path, example: Path) -> None:
    need(example)

    def subject(folder: Path) -> None:
        os.environ[REDIRECT] = str(folder)
        sys.argv = [str(example), "run", str(EPOCHS[example.stem])]
        runpy.run_path(str(example), run_name="__main__")

    whole = tmp_path / "whole"
    seconds = kills.run_whole(subject, whole)
    lines = (whole / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == EPOCHS[example.stem]
    killed, while_saving, number = 0, 0, 0
    while killed < KILLS or not while_saving:
        number += 1
        folder = tmp_path / f"killed-{number}"
        tally = kills.one_run(subject, whole, seconds, folder, random.Random(number), KILLS)
        assert (tally.unreadable, tally.differing, tally.failed) == ([], [], 0)
        killed += tally.kills
        while_saving += tally.while_saving

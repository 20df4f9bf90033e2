"""The examples: few lines for each loop, and the same bits after kills."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

import pytest

from luthier import vision
from luthier.run.prove import prove

EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.py"))
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
# Where torchvision's compiled operations do not load, transformers fails with it otherwise.
START = (
    "import runpy, sys; from luthier import vision; vision.load('torchvision');"
    " sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)


def need(example: Path) -> None:
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
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_that_is_killed_ends_with_the_same_bits(
    tmp_path: Path, example: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need(example)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    script = [str(example), "run", str(EPOCHS[example.stem])]
    command = [sys.executable, "-c", START, *script]
    said: list[str] = []
    proof = prove(command=command, kills=2, out=tmp_path / "proof", say=said.append)
    assert proof.identical, f"{proof}\n" + "\n".join(said)
    assert proof.kills[0] == 2
    assert f"{EPOCHS[example.stem]} lines of metrics" in proof.summary

"""The rows that are scripts of their own: what they print becomes figures."""

from __future__ import annotations

import re

from harness.environment import BENCH
from harness.results import Figure, Row, figure
from harness.training import Bench

_NUMBER = r"(-?[\d.]+)"


def overhead(bench: Bench) -> Row:
    """Measure what ``run.batches`` costs a step."""
    lines = _lines(bench, "overhead", [])
    pattern = rf"^(.+?)\s+bare.*difference\s+{_NUMBER} µs a step"
    goals = {"TensorDataset": 30.0}
    figures = [
        figure(f"a step of {name}", [float(value)], unit="µs", goal=goals.get(name), at_most=True)
        for name, value in _found(pattern, lines)
    ]
    return Row("overhead", "Overhead of a step on a one-layer model", {}, figures, lines=lines)


def startup(bench: Bench) -> Row:
    """Measure how long the command line takes to start."""
    lines = _lines(bench, "startup", [])
    goals = {
        "luthier --help": 0.1,
        "luthier inspect SAFETENSORS": 0.1,
        "luthier inspect MODULE": 0.1,
    }
    figures = [
        figure(name, [float(value)], unit="of import torch", goal=goals.get(name), at_most=True)
        for name, value in _found(rf"^(luthier .+?)\s+{_NUMBER} s\s+{_NUMBER} of", lines, 1, 3)
    ]
    return Row("startup", "Start of the command line", {}, figures, lines=lines)


def saves(bench: Bench) -> Row:
    """Measure for how long a checkpoint holds up training."""
    lines = _lines(bench, "saves", [])
    figures: list[Figure] = []
    model = ""
    for line in lines:
        model = line.partition(" with AdamW")[0] if " with AdamW" in line else model
        for name, copies in _found(rf"^(\S.*?)\s+{_NUMBER} ms\s+{_NUMBER} ", [line], 1, 3):
            goal = 0.3 if name == "luthier" else None
            facts = {"unit": "bare copies", "goal": goal, "at_most": True}
            if name != "bare copy":
                figures.append(figure(f"{model}: blocked by {name}", [float(copies)], **facts))
    return Row("saves", "Blocked time of a checkpoint", {}, figures, lines=lines)


def pipeline(bench: Bench) -> Row:
    """Measure the input pipeline alone, beside torchvision's."""
    lines = _lines(bench, "pipeline", [str(bench.data / "train")])
    goals = {"first": 1.3, "later": 5.0}
    figures = [
        figure(f"{kind}: images/s over torchvision's", [float(times)], goal=goals[kind.split()[-2]])
        for kind, times in _found(rf"^(\d+ workers, \w+ epoch):.*images/s\s+{_NUMBER} x", lines)
    ]
    return Row("pipeline", "Input pipeline, JPEG to normalised batch", {}, figures, lines=lines)


def _lines(bench: Bench, name: str, words: list[str]) -> list[str]:
    bench.run.say(name)
    words = [str(BENCH / f"{name}.py"), *words, *bench.form.scripts[name]]
    return [line.rstrip() for line in bench.run.text(words).splitlines() if line.strip()]


def _found(pattern: str, lines: list[str], name: int = 1, value: int = 2) -> list[tuple[str, str]]:
    matches = [re.search(pattern, line) for line in lines]
    return [(match[name], match[value]) for match in matches if match]

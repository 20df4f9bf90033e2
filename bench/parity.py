"""Accuracy of ways that should know as much as each other: many seeds, differences seed by seed.

    python bench/parity.py [DATA] [--model mobilenet_v2] [--epochs 25] [--full-epochs 10]
                           [--seeds 10] [--arms …]

bf16 beside fp32, and linear probing beside the plain loop with a frozen trunk. What is scored is
the last epoch, since the best one was chosen on the very photos it is scored on. A seed decides the
new last layer, the order and the augmentation of luthier's runs alike, so that the differences are
paired; the plain loop draws otherwise, and its pairs are no closer than others. An interval is
Student's, of 95 %. A finished run is kept, and a second call goes on with the rest: all take hours.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compare import say, show
from harness import environment, machine, photos, results
from harness.forms import BATCH
from harness.processes import FailedError, Runner
from harness.results import Figure, Row

PROBES = {f"probe, {views} views": {"strategy": "probe", "views": views} for views in (1, 4)}
LUTHIER = {
    f"{strategy} {precision}": {"strategy": strategy, "precision": precision}
    for strategy in ("frozen", "full")
    for precision in ("fp32", "bf16")
}
PLAIN = {f"plain {strategy}": {"strategy": strategy} for strategy in ("frozen", "full")}
ARMS = {**PROBES, **LUTHIER, **PLAIN}
PAIRS = (
    ("full bf16", "full fp32"),
    ("frozen bf16", "frozen fp32"),
    ("full bf16", "plain full"),
    ("frozen bf16", "plain frozen"),
    ("probe, 1 views", "plain frozen"),
    ("probe, 4 views", "plain frozen"),
)
EPOCHS, FULL_EPOCHS, SEEDS = 25, 10, 10
# Student's t, 97.5 %, of 1, 2, … degrees of freedom.
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179)
_STUDENT += (2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093)


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the mean of two or more differences."""
    freedom = len(differences) - 1
    student = _STUDENT[min(freedom, len(_STUDENT)) - 1]
    half = student * statistics.stdev(differences) / math.sqrt(len(differences))
    mean = statistics.mean(differences)
    return mean - half, mean + half


def figures(right: Mapping[str, Mapping[int, float]]) -> list[Figure]:
    """Return the means of all arms, and the differences of those that are compared.

    Args:
        right: photos that are right, by arm and seed.
    """
    found = [
        results.figure(f"{arm}: right photos, median", list(scores.values()), unit="")
        for arm, scores in right.items()
        if scores
    ]
    for one, other in PAIRS:
        seeds = sorted(set(right.get(one, {})) & set(right.get(other, {})))
        if len(seeds) < 2:
            continue
        differences = [right[one][seed] - right[other][seed] for seed in seeds]
        low, high = interval(differences)
        name = f"{one} minus {other}, {len(seeds)} seeds"
        mean = statistics.mean(differences)
        goal = 0.0 if len(seeds) >= SEEDS else None  # the interval of a few seeds reaches anything
        found.append(Figure(name, mean, low, high, "photos", goal=goal, noise=True))
    return found


def finish(
    run: Runner, arm: str, seed: int, job: Mapping[str, Any], epochs: int, folder: Path
) -> float:
    """Return the accuracy of an arm and seed; what was finished before is not run again.

    Raises:
        FailedError: the run failed.
    """
    path = folder / f"{arm.replace(', ', '-').replace(' ', '-')}-{epochs}-{seed}.json"
    if not path.exists():
        flags = {**job, **ARMS[arm], "seed": seed}
        if arm not in PROBES:  # which has no epochs and no batches
            flags |= {"epochs": epochs, "batch-size": BATCH}
        taken = run("plain" if arm in PLAIN else "with_luthier", flags, f"{arm}, seed {seed}")
        path.write_text(json.dumps(taken.report), encoding="utf-8")
    return float(json.loads(path.read_text(encoding="utf-8"))["accuracy"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", type=Path, default=photos.SHARED / "hymenoptera")
    parser.add_argument("--model", default="mobilenet_v2")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="with a frozen trunk")
    parser.add_argument("--full-epochs", type=int, default=FULL_EPOCHS, help="of all layers")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--arms", nargs="+", metavar="ARM", choices=ARMS, default=list(ARMS))
    parser.add_argument("--venv", type=Path, default=environment.SCRATCH / "venv")
    parser.add_argument("--out", type=Path, help="folder of the results")
    values = parser.parse_args()
    scratch = environment.hidden(environment.SCRATCH)
    python = environment.ready(values.venv, say)
    run = Runner(python, scratch, say)
    weights = photos.start_weights(values.model, python, scratch)
    job = {"data": values.data, "model": values.model, "weights": weights}
    folder = scratch / "parity" / f"{values.data.name}-{values.model}"
    folder.mkdir(parents=True, exist_ok=True)
    validated = len([p for p in (values.data / "val").rglob("*") if p.suffix.lower() == ".jpg"])
    right: dict[str, dict[int, float]] = {arm: {} for arm in values.arms}
    failures: dict[str, str] = {}
    for seed in range(values.seeds):
        for arm in values.arms:
            if arm in failures:
                continue
            try:
                epochs = values.full_epochs if "full" in arm else values.epochs
                accuracy = finish(run, arm, seed, job, epochs, folder)
            except FailedError as error:
                failures[arm] = str(error)
                say(f"  {arm}: FAILED: {error}")
                continue
            right[arm][seed] = round(accuracy * validated)
    settings = {"data": values.data.name, "model": values.model, "validation photos": validated}
    settings |= {"epochs": values.epochs, "epochs of all layers": values.full_epochs}
    settings |= {"batch": BATCH, "seeds": values.seeds}
    title = f"Accuracy of the last epoch, {values.model}, {validated} validation photos"
    runs = [{"arm": arm, "right": scores} for arm, scores in right.items()]
    row = Row("parity", title, settings, figures(right), failures, runs)
    long = values.epochs >= EPOCHS and values.full_epochs >= FULL_EPOCHS
    whole = long and values.seeds >= SEEDS
    out = values.out or (environment.BENCH / "results" if whole else scratch / "results")
    results.write(row, "full" if whole else "short", machine.facts(python), out)
    show(row)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

"""The rows that run whole trainings: luthier and its peers by turns."""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.forms import BATCH, Form
from harness.photos import start_weights
from harness.processes import FailedError, Runner, Taken
from harness.results import Figure, Row, figure

PEERS = {
    "plain loop": "plain",
    "Lightning": "with_lightning",
    "Hugging Face Trainer": "with_transformers",
    "fastai": "with_fastai",
    "Ignite": "with_ignite",
    "Accelerate": "with_accelerate",
    "timm": "with_timm",
}
EPOCHS = 25  # of the goals with a frozen trunk
_FASTER, _WHOLE, _LIMIT, _FROZEN, _PROBE = 2.1, 2.0, 0.95, 4.5, 50.0


@dataclass
class Turns:
    """The processes of a row, round after round.

    A peer that fails once is not tried again; luthier itself must not fail.
    """

    run: Runner
    taken: dict[str, list[Taken]] = field(default_factory=lambda: collections.defaultdict(list))
    failures: dict[str, str] = field(default_factory=dict)

    def take(self, name: str, script: str, flags: dict[str, Any]) -> Taken | None:
        """Run a script unless it has failed before."""
        if name in self.failures:
            return None
        try:
            taken = self.run(script, flags, name)
        except FailedError as error:
            self.failures[name] = str(error)
            self.run.say(f"  {name}: FAILED: {error}")
            return None
        self.taken[name].append(taken)
        return taken

    def ratios(self, of: str, to: str, value: Callable[[Taken], float]) -> list[float]:
        """Return ``value`` of one name over that of another, round by round."""
        pairs = zip(self.taken[of], self.taken[to], strict=False)
        return [value(one) / value(other) for one, other in pairs]

    def runs(self) -> list[dict[str, Any]]:
        """Return every process as plain JSON values."""
        return [
            {"name": name, "round": number, "command": round(taken.command, 3), **taken.report}
            for name, all_taken in self.taken.items()
            for number, taken in enumerate(all_taken)
        ]


@dataclass(frozen=True)
class Bench:
    """What the rows are run with.

    Attributes:
        run: of scripts.
        data: a folder with ``train/`` and ``val/``.
        form: how much of everything.
        peers: of ``PEERS``; the plain loop is always among them.
        scratch: for files that may stay.
    """

    run: Runner
    data: Path
    form: Form
    peers: Sequence[str]
    scratch: Path

    def job(self, model: str) -> dict[str, Any]:
        """Return the flags that all scripts share."""
        weights = start_weights(model, self.run.python, self.scratch)
        return {"data": self.data, "model": model, "weights": weights}

    def settings(self, epochs: int) -> dict[str, Any]:
        """Return what the figures depend on."""
        photos = "all" if self.form.photos is None else list(self.form.photos)
        return {
            "data": self.data.name,
            "photos of a class": photos,
            "batch": BATCH,
            "epochs": epochs,
            "rounds": self.form.rounds,
        }


def training(bench: Bench, model: str) -> Row:
    """Measure ``full`` training beside the peers and beside the limit of one batch in memory."""
    turns, epochs = Turns(bench.run), bench.form.epochs
    job = bench.job(model) | {"epochs": epochs, "batch-size": BATCH}
    for number in range(bench.form.rounds):
        bench.run.say(f"training, {model}, round {number + 1} of {bench.form.rounds}")
        seeded = job | {"seed": number}
        ours = turns.take("luthier", "with_luthier", seeded)
        if ours is None:
            break
        turns.take("limit in memory", "in_memory", seeded | {"precision": ours.report["precision"]})
        for peer in bench.peers:
            turns.take(peer, PEERS[peer], seeded)
    return Row(
        f"training-{model}",
        f"Fine-tuning all layers of {model}, {epochs} epochs",
        bench.settings(epochs),
        _training_figures(turns, bench.peers),
        turns.failures,
        turns.runs(),
    )


def _training_figures(turns: Turns, peers: Sequence[str]) -> list[Figure]:
    if "luthier" not in turns.taken:
        return []
    speeds = [taken.images_per_second for taken in turns.taken["luthier"]]
    found = [figure("luthier, training images a second", speeds, unit="/s")]
    if "limit in memory" in turns.taken:
        ratios = turns.ratios("luthier", "limit in memory", lambda taken: taken.images_per_second)
        found.append(figure("images/s of the limit in memory", ratios, goal=_LIMIT))
    for name, goal, value in (
        ("images/s", _FASTER, lambda taken: taken.images_per_second),
        ("whole command", _WHOLE, lambda taken: 1 / taken.command),
    ):
        for peer in peers:
            if peer in turns.taken:
                ratios = turns.ratios("luthier", peer, value)
                found.append(figure(f"{name}, over {peer}", ratios, goal=goal))
    return found


def frozen(bench: Bench, model: str) -> Row:
    """Measure ``frozen`` and ``probe`` beside the plain loop with a frozen trunk."""
    turns, epochs = Turns(bench.run), bench.form.frozen_epochs
    for number in range(bench.form.rounds):
        bench.run.say(f"frozen, {model}, round {number + 1} of {bench.form.rounds}")
        job = bench.job(model) | {"seed": number}
        trained = job | {"epochs": epochs, "batch-size": BATCH, "strategy": "frozen"}
        turns.take("plain loop", "plain", trained)
        turns.take("frozen", "with_luthier", trained)
        for views in (1, 4):
            probe = job | {"strategy": "probe", "views": views}
            turns.take(f"probe, {views} views", "with_luthier", probe)
    return Row(
        f"frozen-{model}",
        f"{model} with a frozen trunk, {epochs} epochs with validation",
        bench.settings(epochs),
        _frozen_figures(turns, epochs),
        turns.failures,
        turns.runs(),
    )


def _frozen_figures(turns: Turns, epochs: int) -> list[Figure]:
    found: list[Figure] = []
    more = EPOCHS / epochs - 1  # epochs that were not run, in epochs that were
    for name, goal in {"frozen": _FROZEN, "probe, 1 views": _PROBE, "probe, 4 views": None}.items():
        if "plain loop" not in turns.taken or name not in turns.taken:
            continue
        pairs = list(zip(turns.taken["plain loop"], turns.taken[name], strict=False))
        again = more if name == "frozen" else 0.0
        whole = [
            (theirs.command + more * theirs.epochs) / (ours.command + again * ours.epochs)
            for theirs, ours in pairs
        ]
        inside = [
            (1 + more) * theirs.epochs / (ours.report["inside"] + again * ours.epochs)
            for theirs, ours in pairs
        ]
        label = name.replace("1 views", "1 view")
        found.append(figure(f"{label}: whole command, over the plain loop", whole, goal=goal))
        found.append(figure(f"{label}: the run alone, over the plain loop's epochs", inside))
    return found

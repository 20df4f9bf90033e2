"""How much of everything a form of the benchmark does."""

from __future__ import annotations

from dataclasses import dataclass

MODELS = ("resnet18", "mobilenet_v2")
BATCH = 16


@dataclass(frozen=True)
class Form:
    """A form of the benchmark.

    Attributes:
        name: of the form.
        photos: training and validation photos of each class; None for all there are.
        epochs: of the rows with training.
        frozen_epochs: of the rows with a frozen trunk; all figures are for 25 epochs.
        rounds: how often everything is run, by turns.
        scripts: flags of the scripts that are called, by row.
    """

    name: str
    photos: tuple[int, int] | None
    epochs: int
    frozen_epochs: int
    rounds: int
    scripts: dict[str, list[str]]


_SHORT = {
    "overhead": ["300", "5"],
    "startup": ["3"],
    "saves": ["--rounds", "2", "--models", "resnet18"],
    "pipeline": ["--rounds", "2"],
}
FORMS = {
    "tiny": Form("tiny", (10, 5), 1, 1, 1, _SHORT),
    "quick": Form("quick", (48, 24), 1, 2, 1, _SHORT),
    "full": Form("full", None, 3, 25, 3, {name: [] for name in _SHORT}),
}

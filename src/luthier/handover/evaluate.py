"""``evaluate``: how good a model file is on labelled images, calibrated or beside another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from luthier.errors import DataError, RecipeError
from luthier.handover.calibrate import check_can_hold_temperature, write_temperature
from luthier.handover.labelled import Labelled, list_labelled
from luthier.handover.predict import Predictor, model_file
from luthier.metrics import (
    calibration_error,
    evaluation,
    fit_temperature,
    log_probabilities,
    mcnemar,
)
from luthier.report import Console, calibration_line, evaluation_lines, mcnemar_lines
from luthier.values import Calibration, Evaluation, McNemar, Unreadable


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation found; ``str`` gives the report.

    Attributes:
        model: the file.
        data: where the images are.
        split: which of them: "train", "val" or "all".
        found: how good the model is.
        unreadable: images that were left out.
        temperature: what scores were divided by; None of nothing.
        calibration: what was fitted and written to the file, if that was asked for.
        against: the other model's file, if one was given.
        other: how good that is.
        mcnemar: of the two.
    """

    model: Path
    data: Path
    split: str
    found: Evaluation
    unreadable: tuple[Unreadable, ...]
    temperature: float | None = None
    calibration: Calibration | None = None
    against: Path | None = None
    other: Evaluation | None = None
    mcnemar: McNemar | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "model": str(self.model),
            "data": str(self.data),
            "split": self.split,
            **self.found.as_dict(),
            "unreadable": [asdict(one) for one in self.unreadable],
            "temperature": self.temperature,
            "calibration": self.calibration and asdict(self.calibration),
            "against": self.against and str(self.against),
            "other": self.other and self.other.as_dict(),
            "mcnemar": self.mcnemar and asdict(self.mcnemar),
        }

    def __str__(self) -> str:
        lines = [f"{self.model} on {self.data} ({self.split})", "", evaluation_lines(self.found)]
        if self.calibration is not None:
            lines += ["", calibration_line(self.calibration, str(self.model))]
        if self.mcnemar is not None and self.other is not None:
            names = str(self.model), str(self.against)
            lines += ["", mcnemar_lines(names, self.other.accuracy, self.mcnemar)]
        return "\n".join(lines)


def evaluate(
    path: str | Path,
    data: str | Path,
    *,
    split: str | None = None,
    calibrate: bool = False,
    against: str | Path | None = None,
    console: Console | None = None,
    **settings: Any,
) -> Evaluated:
    """Evaluate a model file on labelled images, which it sees as it sees photos in use.

    Args:
        path: a model file of luthier, or the folder of a run.
        data: any layout that ``finetune`` takes. Labels are matched to the model's classes by
            name; not every class needs images.
        split: "train", "val" or "all". By default the validation images where the data has a
            split, or the run has made one in whose folder the model is, and else all.
        calibrate: fit a temperature to these images and write it into the model's file.
        against: another model file, to compare on the same images.
        console: where to say things; standard error by default.
        **settings: of ``luthier.Predictor``, for both models.

    Raises:
        DataError: a label is none of the model's classes; no image can be read; there is no
            such split; no temperature can be fitted.
        LuthierError: see ``luthier.Predictor``; the file cannot be written.
    """
    if calibrate:
        _check_calibration(model_file(Path(path)), settings)
    console = console or Console()
    images = list_labelled(Path(data), split, Path(path))
    for note in images.notes:
        console.say(f"  {note}")
    first = _scored(path, images, console, settings)
    if not first.names:
        raise DataError(f"none of {len(images.names)} images in {data} can be read")
    temperature, calibration = first.temperature, None
    if calibrate:
        calibration = first.calibrated()
        temperature = calibration.temperature
        write_temperature(first.path, temperature)
    found = first.evaluation(temperature)
    other = paired = None
    if against is not None:
        second = _scored(against, images, console, settings)
        other, paired = second.evaluation(second.temperature), first.against(second)
        against = second.path
    return Evaluated(
        model=first.path,
        data=Path(data),
        split=images.split,
        found=found,
        unreadable=first.unreadable,
        temperature=temperature,
        calibration=calibration,
        against=against,
        other=other,
        mcnemar=paired,
    )


def _check_calibration(path: Path, settings: Mapping[str, Any]) -> None:
    if settings.get("tta", "none") != "none" or not settings.get("temperature", True):
        raise RecipeError(
            "--calibrate fits a temperature to one view of each image, which is then used",
            cure="leave out --tta and --no-temperature, or --calibrate",
        )
    check_can_hold_temperature(path)


@dataclass(frozen=True, eq=False)
class _Scores:
    """What a model gives for the labelled images that can be read."""

    path: Path
    classes: tuple[str, ...]
    temperature: float | None
    names: tuple[str, ...]
    labels: torch.Tensor
    scores: torch.Tensor  # [images, views, classes]
    unreadable: tuple[Unreadable, ...]

    def evaluation(self, temperature: float | None) -> Evaluation:
        likely = log_probabilities(self.scores, temperature)
        return evaluation(self.classes, self.names, self.labels, likely)

    def calibrated(self) -> Calibration:
        temperature = fit_temperature(self.scores[:, 0], self.labels)
        both = [log_probabilities(self.scores, t) for t in (None, temperature)]
        losses = [float(torch.nn.functional.nll_loss(likely, self.labels)) for likely in both]
        errors = [calibration_error(self.labels, likely) for likely in both]
        return Calibration(temperature, (losses[0], losses[1]), (errors[0], errors[1]))

    def against(self, other: _Scores) -> McNemar:
        if self.names != other.names:
            raise DataError("images were removed or changed between the two models")
        mine, theirs = (
            log_probabilities(one.scores).argmax(1) == one.labels for one in (self, other)
        )
        return mcnemar(mine, theirs)


def _scored(
    path: str | Path, images: Labelled, console: Console, settings: Mapping[str, Any]
) -> _Scores:
    with Predictor(path, **settings) as predictor:
        console.say(str(predictor))
        numbers = images.indices(predictor.classes, predictor.path)
        kept: list[int] = []
        scores, unreadable = [], []
        console.start(len(numbers), 0)
        try:
            for at, one in enumerate(predictor.scored(images.paths)):
                console.advance(1)
                if isinstance(one, Unreadable):
                    console.say(f"{one.image} cannot be read: {one.reason}")
                    unreadable.append(Unreadable(images.names[at], one.reason))
                else:
                    kept.append(at)
                    scores.append(one.scores)
        finally:
            console.stop()
    return _Scores(
        predictor.path,
        predictor.classes,
        predictor.temperature,
        tuple(images.names[at] for at in kept),
        torch.tensor([numbers[at] for at in kept]),
        torch.stack(scores) if scores else torch.empty(0, 1, len(predictor.classes)),
        tuple(unreadable),
    )

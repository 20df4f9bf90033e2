"""Finished runs → pages: what their folders hold is gathered here, ``report.page`` draws it."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from luthier import recipe, report
from luthier.data import Batches, Decoded, Inventory
from luthier.data.photos import Sample
from luthier.errors import DamagedError, DataError, RunFolderError
from luthier.files import durable
from luthier.metrics import evaluation, log_probabilities
from luthier.recipe import Recipe, decided
from luthier.report import page
from luthier.report.page import ComparisonPage, Example, RunFacts, RunPage
from luthier.run import predictions, results
from luthier.run.folder import RunFolder
from luthier.run.job import augment_of
from luthier.run.predictions import Predictions
from luthier.values import Evaluation, Mistake, Preprocessing, Score

_MISTAKES, _AUGMENTED = 24, 8
_EDGE, _QUALITY = 288, 80  # of thumbnails: twice as many pixels as they are shown with


def write_report(*runs: str | Path, out: str | Path | None = None) -> Path:
    """Write the page of a finished run, or one that compares several.

    It is a single file that asks for nothing outside of itself. Photos that are gone since are
    left out, and the page says so.

    Args:
        *runs: their folders.
        out: the page, which is replaced if it exists; ``report.html`` in the folder of a single
            run, and ``comparison.html`` here for several, by default.

    Returns:
        where the page is.

    Raises:
        RunFolderError: no run is given, one twice, or one is not finished.
        DamagedError: a file of a run is not as it was written.
        OSError: the page cannot be written.
    """
    folders = [RunFolder(Path(run).resolve()) for run in runs]
    if not folders or len({folder.path for folder in folders}) < len(folders):
        what = "a run is given twice" if folders else "no run is given"
        raise RunFolderError(f"{what}, expected the folders of finished runs")
    if len(folders) == 1:
        path = Path(out) if out is not None else folders[0].page
        text = page.render_run(_Finished(folders[0]).page())
    else:
        path = Path(out) if out is not None else Path("comparison.html")
        text = page.render_comparison(_comparison(folders))
    durable.write_text(path, text)
    return path


def write_or_say(folder: RunFolder, say: Callable[[str], object]) -> None:
    """Write the page of a run that has just been finished; whatever keeps it from that is said."""
    try:
        write_report(folder.path)
    except Exception as error:  # the run is finished: no picture of it is worth its exit status
        why = str(error).partition("\n")[0] or type(error).__name__
        say(f"{folder.page} was not written: {why}; again: luthier report {folder.path}")
    else:
        say(f"report {folder.page}")


def _comparison(folders: Sequence[RunFolder]) -> ComparisonPage:
    finished = [
        _Finished(folder, name) for folder, name in zip(folders, _names(folders), strict=True)
    ]
    # The best first: of as many images right, the one with the lower loss.
    finished.sort(key=lambda run: (-run.facts.best.accuracy.value, run.facts.best.loss))
    best = {run.facts.name: run.facts.best for run in finished}
    right = {run.facts.name: found for run in finished if (found := run.right())}
    return ComparisonPage(tuple(run.facts for run in finished), page.differences(best, right))


def _names(folders: Sequence[RunFolder]) -> list[str]:
    """Return the shortest ends of the folders' paths that tell them apart."""
    parts = [folder.path.parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names


class _Finished:
    """A finished run, read from its folder alone.

    Args:
        folder: of the run.
        name: its name on the page.

    Raises:
        RunFolderError: it is no finished run. DamagedError: a file is not as it was written.
    """

    def __init__(self, folder: RunFolder, name: str | None = None) -> None:
        self.folder = folder
        self.absent: list[str] = []
        if not folder.recipe.is_file():
            raise RunFolderError(
                f"{folder.path} holds no run of finetune", cure="give the folder of a finished run"
            )
        if not folder.summary.is_file():
            raise RunFolderError(
                f"run {folder.path} is not finished: it has no summary.json",
                cure=f"finish it first: luthier resume {folder.path}",
            )
        self.recipe = recipe.read(folder.recipe)
        with _as_written(folder):
            self.summary = json.loads(folder.summary.read_text(encoding="utf-8"))
            self.facts = self._facts(name or folder.path.name)
        self._inventory = Inventory.from_json(folder.data.read_bytes(), str(folder.data))
        self._predictions = self._of_best()

    def _facts(self, name: str) -> RunFacts:
        told, how = self.summary, self.recipe
        records = report.read_metrics(self.folder.metrics)
        return RunFacts(
            name=name,
            model=decided(how.model.model),
            strategy=told["strategy"],
            weights=told["start"]["source"],
            data=self._root.name,
            best=Score.from_dict(told["best"]),
            last=Score.from_dict(told["last"]),
            before=Score.from_dict(told["before"]) if told.get("before") else None,
            epochs=told["epochs"],
            seconds=told["seconds"],
            speed=results.images_a_second(records, told["strategy"]),
            learning=told.get("learning"),
            parameters=told.get("parameters"),
            checkpoint=results.checkpoint_bytes(self.folder),
            recipe=_sections(how),
            records=records,
        )

    @property
    def _root(self) -> Path:
        return Path(decided(self.recipe.data.data))

    def _of_best(self) -> Predictions | None:
        """Return what the best epoch said of the images as they are listed now."""
        path = self.folder.predictions
        if not path.exists():
            self.absent.append(f"{path.name} is not there: no confusion matrix and no mistakes.")
            return None
        found = predictions.read(path)
        if found.epoch != self.facts.best.epoch or found.data != self._inventory.fingerprint:
            self.absent.append(
                f"{path.name} is of epoch {found.epoch} or of other images than the best model's:"
                " no confusion matrix and no mistakes."
            )
            return None
        return found

    def right(self) -> dict[tuple[str, str], bool]:
        """Return for each validation image whether the best epoch has it right."""
        if self._predictions is None:
            return {}
        return predictions.right(self._predictions, self._inventory)

    def page(self) -> RunPage:
        """Return what the run's own page shows."""
        told = self.summary
        names = [entry.name for entry in self._inventory.on("val")]
        found = _evaluation(self._predictions, names) if self._predictions is not None else None
        # Photos first: what is missing of them is among the notes.
        mistakes = tuple(map(self._thumbnail, found.mistakes[:_MISTAKES])) if found else ()
        gone = sum(one.jpeg is None for one in mistakes)
        if gone:
            self.absent.append(f"{gone} photos of mistakes are gone or have changed since.")
        augmented = self._augmented()
        with _as_written(self.folder):
            return RunPage(
                facts=self.facts,
                images=told["images"],
                evaluation=found,
                mistakes=mistakes,
                augmented=augmented,
                time=told.get("time", {}),
                loaded=told["start"].get("loaded", ""),
                rows=_rows(told["start"].get("classes", {})),
                audit=tuple((block, moved, total) for block, moved, total in told["audit"]),
                environment=told["environment"],
                notes=(*told.get("notes", ()), *filter(None, [told["start"].get("overlap")])),
                absent=tuple(self.absent),
            )

    def _place(self, name: str) -> Path:
        return (self._root if self._root.is_dir() else self._root.parent) / name

    def _thumbnail(self, mistake: Mistake) -> Example:
        found = next(e.found for e in self._inventory.on("val") if e.name == mistake.image)
        jpeg = None
        with contextlib.suppress(DataError):
            pixels = Decoded(_EDGE, memory=0).photo(self._place(mistake.image), found)
            jpeg = _jpeg(Image.fromarray(pixels))
        return Example(mistake.image, mistake.label, jpeg, mistake.said, mistake.probability)

    def _augmented(self) -> tuple[Example, ...]:
        """Return the first images of the first epoch, to the pixel as they were drawn then."""
        entries, classes = self._inventory.on("train"), self.summary["classes"]
        how = self.recipe.data
        look = Preprocessing(
            decided(how.resize),
            decided(how.image_size),
            decided(how.interpolation),
            decided(how.mean),
            decided(how.std),
        )
        samples = [Sample(self._place(e.name), classes.index(e.label), e.found) for e in entries]
        batches = Batches(
            samples,
            look,
            augment_of(how),
            batch_size=min(_AUGMENTED, len(samples)),
            seed=decided(self.recipe.training.seed),
            shuffle=self.recipe.strategy.strategy != "probe",
        )
        with contextlib.closing(batches):
            try:
                images = next(batches.epoch())[0]
            except DataError as error:
                self.absent.append(f"No training images are shown: {error.what}.")
                return ()
            of_batch = [entries[index] for index in batches.order(0)[: len(images)]]
        squares = _unnormalised(images, look)
        return tuple(
            Example(entry.name, entry.label, _jpeg(Image.fromarray(square)))
            for entry, square in zip(of_batch, squares.numpy(), strict=True)
        )


@contextlib.contextmanager
def _as_written(folder: RunFolder) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedError(
            f"{folder.path}: summary.json or metrics.jsonl is not as it was written: {error!r}"
        ) from error


def _rows(found: Mapping[str, Mapping[str, str] | None]) -> tuple[tuple[str, str, str], ...]:
    """Return for each class of a head by name the class whose row it began with, and why."""
    return tuple((c, of["name"], of["how"]) if of else (c, "", "") for c, of in found.items())


def _sections(how: Recipe) -> dict[str, dict[str, Any]]:
    """Return the recipe's values by section, those that are set."""
    return {
        section: set_values
        for section, values in asdict(how).items()
        if (set_values := {name: value for name, value in values.items() if value is not None})
    }


def _unnormalised(images: torch.Tensor, look: Preprocessing) -> torch.Tensor:
    """Return grey levels, uint8 ``[batch, size, size, 3]``, of what a model sees."""
    mean, std = torch.tensor([look.mean, look.std])
    grey: torch.Tensor = (images.permute(0, 2, 3, 1) * std + mean) * 255
    return grey.round().clamp(0, 255).to(torch.uint8).contiguous()


def _jpeg(image: Image.Image) -> bytes:
    image.thumbnail((_EDGE, _EDGE))
    written = io.BytesIO()
    image.save(written, "JPEG", quality=_QUALITY, optimize=True)
    return written.getvalue()


def _evaluation(found: Predictions, names: Sequence[str]) -> Evaluation:
    likely = log_probabilities(found.scores[:, None])
    return evaluation(found.classes, names, found.labels, likely, counts_only=True)

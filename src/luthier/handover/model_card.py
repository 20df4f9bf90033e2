"""What is known of a model and the run that made it → the values of its card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier import recipe
from luthier.data import Inventory
from luthier.exporting import Agreement, Subject
from luthier.report.card import Card
from luthier.run.folder import RunFolder
from luthier.values import Score
from luthier.version import __version__

# Of a recipe: what the card says elsewhere, and what changes no result.
_ELSEWHERE = ("data", "image_size", "resize", "interpolation", "mean", "std", "model", "weights")
_NO_RESULT = ("save_every", "keep", "disk_patience", "device", "compile", "workers", "pin_memory")
_LEFT_OUT = frozenset({*_ELSEWHERE, *_NO_RESULT, "cache_memory", "cache_disk", "shard"})


def card_of(
    subject: Subject,
    run: RunFolder | None,
    *,
    path: str,
    form: str,
    takes: tuple[str, str],
    checks: Sequence[Agreement],
    images: str,
) -> Card:
    """Return the values of a model card.

    Args:
        subject: the model.
        run: the run that it is of, if any.
        path: name of the export.
        form: its format.
        takes: what it is given: in words, and as the name of a variable.
        checks: how it was compared with the model.
        images: on which images, in words.
    """
    told = subject.about.get("training", {})
    validation = told.get("validation")
    training = {k: v for k, v in told.items() if k != "validation" and v is not None}
    data, counts, settings = _of_run(run) if run else ("", {}, training)
    return Card(
        path=path,
        format=form,
        input=takes[0],
        batch=takes[1],
        architecture=subject.architecture,
        classes=subject.classes,
        preprocessing=subject.preprocessing,
        data=data,
        counts=counts,
        recipe=settings,
        validation=Score.from_dict(validation) if validation else None,
        start=subject.about.get("start", {}),
        checks=tuple(f"{one}, on {images}" for one in checks),
        writer=f"luthier {__version__}",
    )


def _of_run(run: RunFolder) -> tuple[str, Mapping[str, Mapping[str, int]], dict[str, Any]]:
    how = recipe.read(run.recipe)
    inventory = Inventory.from_json(run.data.read_bytes(), str(run.data))
    sides = {
        side: Counter(e.label for e in inventory.readable if e.side == side)
        for side in ("train", "val")
    }
    settings = {
        name: value
        for name, value in recipe.values(how).items()
        if name not in _LEFT_OUT and value not in (None, False)
    }
    return Path(recipe.decided(how.data.data)).stem, sides, settings

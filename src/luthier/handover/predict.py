"""``Predictor``: what a model file says of photos, by what the file says of itself."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from luthier import devices, models
from luthier.data import AVERAGED, Photo, read_batches
from luthier.errors import (
    DataError,
    ModelError,
    OutOfMemoryError,
    RecipeError,
    RunFolderError,
    is_out_of_memory,
)
from luthier.metrics import log_probabilities
from luthier.run.folder import RunFolder
from luthier.training import Precision
from luthier.values import Choice, Prediction, Preprocessing, Unreadable
from luthier.weights.description import Description, describe
from luthier.weights.rebuilding import load_model

_PRECISIONS = ("fp32", "bf16")
_AHEAD = 2  # batches that are read ahead of an accelerator; a CPU would lose cores to them


@dataclass(frozen=True, eq=False)
class Scored:
    """What a model gave for a photo.

    Attributes:
        image: its path as it was given; None of an image in memory.
        scores: float32 ``[views, classes]``, before any softmax.
    """

    image: str | None
    scores: torch.Tensor


class Predictor:
    """The model of a file, ready for photos, which it sees as validation did.

    Preprocessing is that of validation to the bit, and so is the arithmetic, where the file says
    which it was; on another device, or in batches of another size, kernels may round otherwise.
    Other photos in a batch have no further influence.

    Args:
        path: a model file of luthier, or the folder of a run.
        model: the class or function that makes a model of your own, or its name,
            ``"package.module:callable"``; a file is not believed which to call.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps"; it is held until ``close``.
        precision: "fp32" or "bf16"; by default that of the validation, as the file says, else fp32.
        batch_size: photos that go through the model at once.
        tta: test-time augmentation, the mean of the probabilities of several views: "flip" (the
            photo and its mirror image) or "ten-crop" (Krizhevsky et al. 2012); "none".
        temperature: divide scores by the temperature in the file, if there is one.

    Attributes:
        path: of the file.
        about: what it says of itself.
        classes: names in index order.
        preprocessing: what happens to a photo before the model sees it.
        temperature: what scores are divided by; None of nothing.

    Raises:
        ModelError: the file does not say what its model, classes or preprocessing are.
        LuthierError: the file cannot be opened, its weights do not fit, the device is not there.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        model: Callable[..., nn.Module] | str | None = None,
        device: str = "auto",
        precision: str | None = None,
        batch_size: int = 16,
        tta: str = "none",
        temperature: bool = True,
    ) -> None:
        if batch_size < 1:
            raise RecipeError(f"batch size {batch_size}: expected 1 or more")
        _check_one_of("tta", tta, AVERAGED)
        self.path = model_file(Path(path))
        self.about = describe(self.path)
        self.classes = self.about.classes
        self.preprocessing = _preprocessing(self.path, self.about)
        self.temperature = self.about.temperature if temperature else None
        self.tta, self._batch_size = tta, batch_size
        self._arithmetic = _arithmetic(self.about, precision)
        loaded = load_model(self.path, model=_factory(model, len(self.classes)))
        with contextlib.ExitStack() as ends:
            held = ends.enter_context(devices.hold(device)).choice()
            found = devices.probe()
            self._chosen = devices.choose(found, device, None, held)
            devices.fit_threads(found.cores)
            self._precision = Precision(self._chosen.device.value, self._arithmetic.value)
            self._model = self._precision.prepare(loaded.float())
            self._ends = ends.pop_all()

    def close(self) -> None:
        """Give the device back."""
        self._ends.close()

    def __enter__(self) -> Predictor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.close()

    def __str__(self) -> str:
        lines = [
            f"model {self.path}: {self.about.architecture}, {len(self.classes)} classes",
            f"{self._chosen}, precision {self._arithmetic}",
        ]
        if self.temperature is not None:
            lines.append(f"scores are divided by the file's temperature, {self.temperature:.4g}")
        if self.tta != "none":
            lines.append(f"probabilities are means over views: {self.tta}")
        return "\n".join(lines)

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a text is a sequence of texts
        self, images: str | os.PathLike[str] | Image.Image
    ) -> Prediction: ...
    @overload
    def __call__(self, images: NDArray[np.uint8]) -> Prediction: ...
    @overload
    def __call__(self, images: Sequence[Photo]) -> list[Prediction]: ...
    def __call__(self, images: Photo | Sequence[Photo]) -> Prediction | list[Prediction]:
        """Return what the model says of an image, or of each of several.

        Args:
            images: a path, an image of Pillow's, an array uint8 ``[height, width, 3]`` of RGB; or
                a list of them.

        Raises:
            DataError: one cannot be read; ``stream`` goes on behind it.
        """
        if isinstance(images, str | os.PathLike | Image.Image | np.ndarray):
            return self([images])[0]
        found = []
        for one in self.stream(images):
            if isinstance(one, Unreadable):
                raise DataError(f"{one.image} cannot be read: {one.reason}")
            found.append(one)
        return found

    def stream(self, images: Iterable[Photo]) -> Iterator[Prediction | Unreadable]:
        """Give what the model says of each image, in order, as far as they can be read.

        Args:
            images: see the call; asked for a batch at a time, so there may be any number.
        """
        for one in self.scored(images):
            yield one if isinstance(one, Unreadable) else self._prediction(one)

    def scored(self, images: Iterable[Photo]) -> Iterator[Scored | Unreadable]:
        """Give the scores of each image, in order, as far as they can be read."""
        ahead = 0 if torch.device(self._precision.device).type == "cpu" else _AHEAD
        batches = read_batches(
            images,
            self.preprocessing,
            self.tta,
            batch_size=self._batch_size,
            workers=int(self._chosen.workers.value),
            ahead=ahead,
        )
        for batch in batches:
            seen = [one.views for one in batch if one.views is not None]
            scores = iter(self._scores_of_views(seen))
            for one in batch:
                if one.views is None:
                    yield Unreadable(one.image or "", one.problem or "")
                else:
                    yield Scored(one.image, next(scores))

    def scores(self, images: torch.Tensor) -> torch.Tensor:
        """Return the scores of images that are preprocessed already.

        Args:
            images: float32 ``[batch, 3, size, size]``.

        Returns:
            float32 ``[batch, classes]`` on the CPU, before any softmax or temperature.

        Raises:
            ModelError: the model gives something else, or what is no number.
            OutOfMemoryError: the device does not hold the batch.
        """
        try:
            with torch.no_grad(), self._precision.autocast():
                found: torch.Tensor = self._model(self._precision.place(images))
                scores = found.float().cpu()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(
                f"the memory of {self._precision.device} does not hold {len(images)} images",
                cure=f"lower --batch-size, which is {self._batch_size}",
            ) from error
        expected = (len(images), len(self.classes))
        if scores.shape != expected:
            raise ModelError(
                f"the model of {self.path} gives {list(scores.shape)}, expected {list(expected)}:"
                " a score of each image and class"
            )
        if not scores.isfinite().all():
            raise ModelError(
                f"the model of {self.path} gives scores that are no finite numbers",
                cure=f"see which of its tensors are not: luthier verify {self.path}",
            )
        return scores

    def _scores_of_views(self, seen: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the scores of photos, ``[photos, views, classes]``."""
        if not seen:
            return torch.empty(0, 1, len(self.classes))
        views = torch.cat(list(seen))
        size = self._batch_size
        scores = [self.scores(views[at : at + size]) for at in range(0, len(views), size)]
        return torch.cat(scores).reshape(len(seen), -1, len(self.classes))

    def _prediction(self, one: Scored) -> Prediction:
        likely = log_probabilities(one.scores[None], self.temperature)[0].exp()
        ranked = likely.sort(descending=True, stable=True)
        classes = tuple(self.classes[index] for index in ranked.indices.tolist())
        return Prediction(one.image, classes, tuple(ranked.values.tolist()))


def model_file(path: Path) -> Path:
    """Return a model's file: the path itself, or what a run's folder holds.

    Raises:
        RunFolderError: the run has no model yet.
    """
    run = RunFolder(path)
    if not run.recipe.is_file():
        return path
    if not run.model.is_file():
        raise RunFolderError(
            f"run {path} has no model yet", cure=f"finish it: luthier resume {path}"
        )
    return run.model


def _preprocessing(path: Path, about: Description) -> Preprocessing:
    if about.preprocessing is None or not about.classes:
        lacks = "preprocessing is" if about.classes else "classes are called"
        raise ModelError(
            f"{path} does not say what its {lacks}",
            cure="write it with luthier.save(model, path, classes=…, preprocessing=…)",
        )
    return about.preprocessing


def _arithmetic(about: Description, asked: str | None) -> Choice:
    if asked is not None:
        _check_one_of("precision", asked, _PRECISIONS)
        return Choice(asked, "asked for")
    told = about.training.get("precision")
    if told in _PRECISIONS:
        return Choice(str(told), "as in its validation")
    return Choice("fp32", "the file names no other")


def _factory(
    model: Callable[..., nn.Module] | str | None, classes: int
) -> Callable[..., nn.Module] | None:
    if not isinstance(model, str):
        return model
    name = model
    return lambda **_arguments: models.build(name, classes)


def _check_one_of(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise RecipeError(f"{what} {value!r}: expected one of {', '.join(known)}")

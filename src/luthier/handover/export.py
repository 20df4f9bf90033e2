"""``export``: a model file → what other programs load, compared with the model after writing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from luthier import named
from luthier.errors import DataError, DisagreesError, ModelError, RecipeError
from luthier.exporting import Agreement, Format, Subject, check, format_of
from luthier.files import durable
from luthier.files.opening import open_archive
from luthier.handover import examples
from luthier.handover.counterparts import Counterpart, counterpart
from luthier.handover.examples import Examples
from luthier.handover.model_card import card_of
from luthier.models import find_head
from luthier.report import render_card
from luthier.run.folder import RunFolder
from luthier.values import Preprocessing
from luthier.weights.description import Description
from luthier.weights.inspected import size
from luthier.weights.rebuilding import load_model
from luthier.weights.save import refusals

_CARD = "README.md"  # of a folder


@dataclass(frozen=True)
class Exported:
    """What was written; ``str(exported)`` says it.

    Attributes:
        source: the model file.
        path: what was written.
        format: "onnx", "pt2", "safetensors", "pt", "timm" or "hf".
        nbytes: on the disk.
        input: what the export is given, in words.
        images: what it was compared on, in words.
        checks: how far it is from the model; all of them pass.
        card: the model card, where one was written.
        note: which network of another library it is, if any.
    """

    source: Path
    path: Path
    format: str
    nbytes: int
    input: str
    images: str
    checks: tuple[Agreement, ...]
    card: Path | None
    note: str

    def __str__(self) -> str:
        lines = [
            f"{self.path}: {self.format}, {size(self.nbytes)}",
            f"  input: {self.input}",
            f"  checked on {self.images}",
            *(f"    {one}" for one in self.checks),
        ]
        lines += [f"  {self.note}"] if self.note else []
        lines += [f"  card: {self.card}"] if self.card else []
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        paths = {"source": str(self.source), "path": str(self.path)}
        checks = [one.as_dict() for one in self.checks]
        card = str(self.card) if self.card else None
        return vars(self) | paths | {"checks": checks, "card": card}


def export(
    file: str | Path,
    out: str | Path,
    *,
    to: str | None = None,
    with_preprocessing: bool = False,
    check: str | Path | Sequence[str | Path] = (),
    card: str | Path | None = None,
    model: str | Callable[..., nn.Module] | None = None,
    force: bool = False,
) -> Exported:
    """Write a model for other programs, and compare what was written with the model.

    Model and export see the same images, one alone and in batches. An export whose probabilities
    differ by more than the tolerance is not left under its name.

    Args:
        file: a model file that describes itself, or a run's folder.
        out: the file; for timm and transformers a new folder.
        to: "onnx", "pt2", "safetensors", "pt", "timm" or "hf"; by default what the suffix says.
        with_preprocessing: let the graph take uint8 photos of any size; of onnx and pt2.
        check: images, or folders of them, to compare on; by default validation images of the run
            that the file lies in, and random ones where it lies in none.
        card: where to write a model card; a folder has one in any case.
        model: for a model of your own its class, or ``package.module:callable``.
        force: replace ``out`` if it is a file.

    Raises:
        RecipeError: ``out`` is there, or the request makes no sense.
        DisagreesError: the export does not give the model's probabilities.
        ModelError: the file does not say enough of its model, or the model is no graph.
        UnsupportedFileError: the other library has no such network, or see ``open_archive``.
        MissingExtraError: what writes or reads the format is not installed.
        DataError: there is no image among those to compare on.
        CannotWriteError: the disk is full or refuses; what was there is as it was.
    """
    out, wanted = Path(out), format_of(Path(out), to)
    source, run = _source(Path(file))
    _check_request(source, out, wanted, with_preprocessing, card)
    _check_place(source, out, wanted, force)
    subject = _subject(source, model)
    images = _examples(check, run, subject.preprocessing)
    other = counterpart(subject, wanted.name) if wanted.is_folder else Counterpart(subject)
    told = _Request(subject, other.subject, wanted, with_preprocessing, images)
    place = out / _CARD if wanted.is_folder else Path(card) if card else None
    nbytes = sum(tensor.nbytes for tensor in subject.state.values())
    with refusals(out, nbytes), _new(out, wanted) as temporary:
        checks = _written(told, temporary, out)
        text = _card(told, out, run, checks) if place else ""
        if wanted.is_folder:
            durable.write_bytes(temporary / _CARD, text.encode())
    if place and not wanted.is_folder:
        with refusals(place, len(text)):
            durable.write_text(place, text)
    return Exported(
        source=source,
        path=out,
        format=wanted.name,
        nbytes=_nbytes(out),
        input=_input(subject.preprocessing, with_preprocessing),
        images=images.said,
        checks=checks,
        card=place,
        note=other.note,
    )


# --- what is asked for --------------------------------------------------------------------------


def _source(file: Path) -> tuple[Path, RunFolder | None]:
    """Return the model file, and the run that it is of."""
    model = RunFolder(file).model
    source = model if file.is_dir() and model.is_file() else file
    folder = RunFolder(source.resolve().parent)
    is_of_run = folder.recipe.is_file() and folder.data.is_file() and source.name == model.name
    return source, folder if is_of_run else None


def _check_request(
    source: Path, out: Path, wanted: Format, with_preprocessing: bool, card: str | Path | None
) -> None:
    if with_preprocessing and not wanted.takes_preprocessing:
        raise RecipeError(
            f"--with-preprocessing has no effect with {wanted.name}, which has no graph for it",
            cure="use onnx or pt2; timm and hf have the preprocessing in their settings",
        )
    if card is None:
        return
    if wanted.is_folder:
        raise RecipeError(f"--card has no effect: the card of a folder is its {_CARD}")
    if Path(card).resolve() in (source.resolve(), out.resolve()) or Path(card).is_dir():
        raise RecipeError(f"--card {card} is no place for a card", cure="name a new .md file")


def _check_place(source: Path, out: Path, wanted: Format, force: bool) -> None:
    if not out.exists():
        return
    if source.exists() and out.samefile(source):
        raise RecipeError(f"{out} is what is to be exported; luthier never writes over its input")
    if out.is_dir() or wanted.is_folder:
        raise RecipeError(f"{out} is there already", cure="name a new folder")
    if not force:
        raise RecipeError(f"{out} is there already", cure="replace it with --force")


def _subject(source: Path, model: str | Callable[..., nn.Module] | None) -> Subject:
    about = Description.of(open_archive(source))
    if about.preprocessing is None:
        raise ModelError(
            f"{source} does not say what its model sees of a photo",
            cure="write it with luthier.save(model, path, architecture=…, preprocessing=…)",
        )
    if isinstance(model, str):
        model = named.find(model, "model", ModelError)
    built = load_model(source, model=model)
    state = dict(built.state_dict())
    outputs = find_head(built, about.head or None).outputs
    return Subject(
        model=built.float(),  # half precisions have no kernels in some of those programs
        state=state,
        architecture=about.architecture,
        arguments=about.arguments,
        classes=about.classes or tuple(map(str, range(outputs))),
        preprocessing=about.preprocessing,
        about=about.as_dict(),
    )


def _examples(
    given: str | Path | Sequence[str | Path], run: RunFolder | None, how: Preprocessing
) -> Examples:
    named = [given] if isinstance(given, str | Path) else given
    if named:
        found = examples.chosen([Path(path) for path in named], how)
        if next(iter(found), None) is None:
            raise DataError(f"--check {found.said}: none of these files is an image")
        return found
    if run is not None:
        return examples.of_run(run, how)
    return examples.random(how, "the file lies in no run's folder")


# --- writing ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Request:
    """What is written, and what it is compared with."""

    subject: Subject
    other: Subject
    format: Format
    with_preprocessing: bool
    images: Examples


@contextlib.contextmanager
def _new(out: Path, wanted: Format) -> Iterator[Path]:
    make = durable.new_directory if wanted.is_folder else durable.new_file
    with make(out) as temporary:
        yield temporary


def _written(told: _Request, temporary: Path, out: Path) -> tuple[Agreement, ...]:
    form, inside = told.format, told.with_preprocessing
    form.write(told.other, temporary, inside)
    found = check(told.subject.model, form.opened(told.other, temporary, inside), told.images)
    failed = [str(one) for one in found if not one.passes]
    if failed:
        raise DisagreesError(
            f"{out} would not give the probabilities of {told.subject.architecture}, and was not"
            f" kept: on {told.images.said}, {'; '.join(failed)}",
            cure="hand over the weights instead: --to safetensors",
        )
    return found


def _nbytes(out: Path) -> int:
    files = out.iterdir() if out.is_dir() else [out]
    return sum(file.stat().st_size for file in files)


def _input(how: Preprocessing, with_preprocessing: bool) -> str:
    if with_preprocessing:
        return "uint8 [batch, height, width, 3], RGB photos of any size"
    edge = how.image_size
    return f"float32 [batch, 3, {edge}, {edge}], preprocessed RGB"


def _card(told: _Request, out: Path, run: RunFolder | None, checks: Sequence[Agreement]) -> str:
    named = "images" if told.with_preprocessing else "pixels"
    return render_card(
        card_of(
            told.subject,
            run,
            path=out.name,
            form=told.format.name,
            takes=(_input(told.subject.preprocessing, told.with_preprocessing), named),
            checks=checks,
            images=told.images.kind,
        )
    )

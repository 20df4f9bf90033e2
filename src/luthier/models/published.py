"""Where a model starts: a file, weights published by torchvision or timm, or nothing.

Published weights go through torchvision's own table and torch.hub's cache; the file's SHA-256
must begin with the digits in its name. ``LUTHIER_WEIGHTS_MIRROR`` names another place to fetch
them from, for machines behind a firewall: ``http://host/path`` in place of the address up to
the file's name.
"""

from __future__ import annotations

import http.client
import os
import re
import sys
import urllib.error
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from luthier import vision
from luthier.errors import DamagedError, ModelError, WeightsUnavailableError, nearest
from luthier.files import durable, tensors
from luthier.files.entries import Archive
from luthier.files.opening import open_archive
from luthier.models import from_timm, labels
from luthier.models.from_timm import PREFIX as TIMM

MIRROR = "LUTHIER_WEIGHTS_MIRROR"
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[A-Za-z]+$")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Start:
    """What a model starts from.

    Attributes:
        archive: the tensors; None for a random start.
        source: what to call it in a report.
        mean: what to subtract from RGB channels in [0, 1].
        std: what to divide them by.
        interpolation: "bilinear" or "bicubic", as in the weights' own preprocessing.
        classes: names of the rows of the weights' head, in order; () where they are not known.
    """

    archive: Archive | None
    source: str
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: str = "bilinear"
    classes: tuple[str, ...] = ()

    def tensors(self) -> Mapping[str, torch.Tensor]:
        """Return the weights by name, mapped where they lie; none of a random start.

        Raises:
            UnsupportedFileError: the file holds no named tensors.
        """
        return {} if self.archive is None else tensors.weights(self.archive)


def start_weights(model: str, weights: str) -> Start:
    """Return what ``--weights`` stands for with this ``--model``.

    Args:
        model: as for ``build``.
        weights: a path, "imagenet", the name of torchvision weights ("IMAGENET1K_V1"), "none".

    Raises:
        WeightsUnavailableError: there are no such weights, or they could not be fetched; the
            message says what to fetch and where to put it.
        DamagedError: the content does not match the hash in the file's name.
        UnsupportedFileError: see ``luthier.files.opening.open_archive``.
    """
    if weights == "none":
        return Start(None, "random")
    if weights != "imagenet" and not _is_published_name(model, weights):
        return _from_file(model, Path(weights))
    if ":" in model:
        raise WeightsUnavailableError(
            f"there are no published weights of {model}",
            cure="give --weights FILE, or --weights none to start at random",
        )
    if model.startswith(TIMM):
        name = model.removeprefix(TIMM)
        weights_of_timm = from_timm.published_weights(name)
        archive = tensors.archive_of(weights_of_timm, Path(model), "timm")
        looks = from_timm.normalisation(name)
        return Start(archive, model, classes=from_timm.class_names(name), **looks)
    entry = _torchvision_entry(model, weights)
    return _described(open_archive(fetch(entry.url)), f"{model} {entry}", entry)


def _is_published_name(model: str, weights: str) -> bool:
    looks = re.fullmatch(r"[A-Z][A-Z0-9_]+", weights) is not None
    return looks and ":" not in model and not model.startswith(TIMM) and not Path(weights).exists()


def _from_file(model: str, path: Path) -> Start:
    if not path.exists():
        names = ["imagenet", "none", *(entry.name for entry in _torchvision_entries(model))]
        raise WeightsUnavailableError(
            f"weights file {path} does not exist{nearest(str(path), names)}",
            cure="give a file, imagenet or none",
        )
    archive = open_archive(path)
    check_name_hash(path, archive.sha256)
    if archive.metadata.get("preprocessing"):
        return Start(
            archive,
            str(path),
            classes=labels.names(archive.metadata.get("classes")),
            **_own_looks(archive),
        )
    if model.startswith(TIMM):
        name = model.removeprefix(TIMM)
        looks = from_timm.normalisation(name)
        return Start(archive, str(path), classes=from_timm.file_class_names(name, path), **looks)
    for entry in _torchvision_entries(model):
        if entry.url.rpartition("/")[2] == path.name:
            return _described(archive, str(path), entry)
    return Start(archive, str(path), classes=labels.beside(path))


def _own_looks(archive: Archive) -> dict[str, Any]:
    own = archive.metadata["preprocessing"]
    try:
        mean, std = tuple(map(float, own["mean"])), tuple(map(float, own["std"]))
        if len(mean) != 3 or len(std) != 3 or own["interpolation"] not in ("bilinear", "bicubic"):
            raise ValueError("three means, three deviations and an interpolation are expected")
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedError(
            f"{archive.path}: the preprocessing in its description is {str(own)[:80]}: {error!r}"
        ) from error
    return {"mean": mean, "std": std, "interpolation": own["interpolation"]}


def _described(archive: Archive, source: str, entry: Any) -> Start:
    preset = entry.transforms()
    interpolation = preset.interpolation.value
    mean, std = tuple(preset.mean), tuple(preset.std)
    return Start(archive, source, mean, std, interpolation, labels.of_entry(entry))


def _torchvision_entries(model: str) -> list[Any]:
    models = vision.load("torchvision.models")
    if model not in models.list_models(module=models):
        return []
    return list(models.get_model_weights(model))


def _torchvision_entry(model: str, weights: str) -> Any:
    entries = {entry.name: entry for entry in _torchvision_entries(model)}
    if not entries:
        known = vision.load("torchvision.models").list_models()
        raise ModelError(f"unknown model {model!r}{nearest(model, known)}")
    if weights == "imagenet":
        return vision.load("torchvision.models").get_model_weights(model).DEFAULT
    if weights not in entries:
        raise WeightsUnavailableError(
            f"{model} has no weights {weights!r}{nearest(weights, entries)}, and there is no such"
            f" file; torchvision publishes: {', '.join(entries)}"
        )
    return entries[weights]


def fetch(url: str) -> Path:
    """Return the cached file of a published address, fetching it first if need be.

    The cache is torch.hub's (``$TORCH_HOME/hub/checkpoints``). A progress bar is shown on a
    terminal.

    Raises:
        WeightsUnavailableError: it is not in the cache and cannot be fetched.
        DamagedError: its SHA-256 does not begin with the digits in its name.
    """
    name = url.rpartition("/")[2]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.exists():
        mirror = os.environ.get(MIRROR)
        address = f"{mirror.rstrip('/')}/{name}" if mirror else url
        path.parent.mkdir(parents=True, exist_ok=True)
        found = _HASH_IN_NAME.search(name)
        try:
            if "://" not in address:
                raise OSError(f"{MIRROR} is no address such as http://host/path")
            torch.hub.download_url_to_file(
                address, str(path), found and found[1], progress=sys.stderr.isatty()
            )
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()  # it is the answer too, with its connection
            raise WeightsUnavailableError(
                f"{address} could not be fetched: {error}",
                cure=f"fetch {url} on a machine with a network and put it at {path}, or give"
                " --weights FILE",
            ) from error
        except RuntimeError as error:  # torch.hub's word for a wrong hash
            raise DamagedError(
                f"{address}: {error}", cure="try again, or another mirror"
            ) from error
    check_name_hash(path, durable.sha256(path))
    return path


def check_name_hash(path: Path, sha256: str) -> None:
    """Compare a file's SHA-256 with the digits in its name, where both are there.

    Raises:
        DamagedError: they differ.
    """
    found = _HASH_IN_NAME.search(path.name)
    if found and sha256 and not sha256.startswith(found[1]):
        raise DamagedError(
            f"{path} is damaged: its SHA-256 begins with {sha256[: len(found[1])]}, expected"
            f" {found[1]} as its name says",
            cure="remove it and fetch it again",
        )

"""Models and weights of timm, which is an extra."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from luthier import vision
from luthier.errors import ModelError, WeightsUnavailableError, missing_extra, nearest
from luthier.models import labels

PREFIX = "timm/"


def _timm(name: str) -> ModuleType:
    vision.load()  # timm imports torchvision, which must be mended first
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError:
        raise missing_extra("timm", "timm", f"the model {PREFIX}{name}") from None


def build(name: str, arguments: Mapping[str, Any] | None = None) -> nn.Module:
    """Build a timm model with random weights.

    Args:
        name: timm's.
        arguments: of its constructor; without, it has its published number of classes.

    Raises:
        ModelError: timm has no such model; the nearest name is given.
        MissingExtraError: timm is not installed.
    """
    timm = _timm(name)
    known = timm.list_models(pretrained=False)
    if name.split(".", maxsplit=1)[0] not in known:
        raise ModelError(f"unknown timm model {name!r}{nearest(name, known)}")
    try:
        model: nn.Module = timm.create_model(name, pretrained=False, **(arguments or {}))
    except Exception as error:  # such as an unknown tag after the dot
        raise ModelError(f"timm model {name!r} could not be built: {error}") from error
    return model


def normalisation(name: str) -> dict[str, Any]:
    """Return ``mean``, ``std`` and ``interpolation`` of a model's published weights."""
    found = _timm(name).models.get_pretrained_cfg(name, allow_unregistered=True)
    config = importlib.import_module("timm.data").resolve_data_config(
        pretrained_cfg=found.to_dict() if found else {}
    )
    kind = config["interpolation"]
    return {
        "mean": tuple(config["mean"]),
        "std": tuple(config["std"]),
        "interpolation": kind if kind in ("bilinear", "bicubic") else "bilinear",
    }


def class_names(name: str) -> tuple[str, ...]:
    """Return the class names of a model's published weights; () where timm knows none.

    The names are those of its configuration, else WordNet's of the ImageNet list with as many
    classes, as timm itself takes them.
    """
    try:
        found = _timm(name).models.get_pretrained_cfg(name, allow_unregistered=True)
    except RuntimeError:  # it has the model, and not with this tag
        found = None
    if found is None:
        return ()
    own = labels.described(found.label_names, found.label_descriptions)
    timm_data = importlib.import_module("timm.data")
    subset = timm_data.infer_imagenet_subset(found.to_dict())
    if own or subset is None:
        return own
    return labels.names(timm_data.ImageNetInfo(subset).label_descriptions())


def file_class_names(name: str, path: Path) -> tuple[str, ...]:
    """Return the class names of a file of timm's; () where it is not known which file it is.

    It is known by a ``config.json`` beside it, or by the name under which it was published.
    """
    told = labels.beside(path)
    if told:
        return told
    published = labels.timm_name(path)
    if published is not None:
        return class_names(published)
    found = _timm(name).models.get_pretrained_cfg(name, allow_unregistered=True)
    url = found.url if found is not None else None
    return class_names(name) if url and url.rpartition("/")[2] == path.name else ()


def published_weights(name: str) -> dict[str, torch.Tensor]:
    """Fetch a model's published weights through timm's own loader and cache.

    Raises:
        WeightsUnavailableError: they could not be fetched; the message says what to fetch.
    """
    timm = _timm(name)
    try:
        model: nn.Module = timm.create_model(name, pretrained=True)
    except Exception as error:  # the hub client has a tree of its own errors
        found = timm.models.get_pretrained_cfg(name, allow_unregistered=True)
        place = f"https://huggingface.co/{found.hf_hub_id}" if found else "the model's page"
        raise WeightsUnavailableError(
            f"the published weights of {PREFIX}{name} could not be fetched: {error}",
            cure=f"fetch model.safetensors of {place} on a machine with a network, and give it as"
            " --weights FILE",
        ) from error
    return model.state_dict()

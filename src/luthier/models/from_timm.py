"""Models and weights of timm, which is an extra."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import torch
from torch import nn

from luthier import vision
from luthier.errors import ModelError, WeightsUnavailableError, missing_extra, nearest

PREFIX = "timm/"


def _timm(name: str) -> ModuleType:
    vision.load()  # timm imports torchvision, which must be mended first
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError:
        raise missing_extra("timm", "timm", f"the model {PREFIX}{name}") from None


def build(name: str) -> nn.Module:
    """Build a timm model with its published number of classes and random weights.

    Raises:
        ModelError: timm has no such model; the nearest name is given.
        MissingExtraError: timm is not installed.
    """
    timm = _timm(name)
    known = timm.list_models(pretrained=False)
    if name.split(".", maxsplit=1)[0] not in known:
        raise ModelError(f"unknown timm model {name!r}{nearest(name, known)}")
    try:
        model: nn.Module = timm.create_model(name, pretrained=False)
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

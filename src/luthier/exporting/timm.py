"""timm: a folder with ``config.json`` and ``model.safetensors``, as timm's hub has them."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from luthier.exporting import weights
from luthier.exporting.subject import Opened, Subject
from luthier.files import durable
from luthier.values import Preprocessing

_SAME = (
    *("convnext_tiny", "convnext_small", "convnext_base", "convnext_large"),
    *("densenet121", "densenet161", "densenet169", "densenet201"),
    *(f"efficientnet_b{n}" for n in range(5)),
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
    *("wide_resnet50_2", "wide_resnet101_2"),
)
_EPS = {"bn_eps": 0.001}  # torchvision's, where timm's own is another
# timm's name of a model of torchvision's, and what its constructor must be told.
COUNTERPARTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in _SAME},
    **{f"efficientnet_b{n}": (f"efficientnet_b{n}", _EPS) for n in (5, 6, 7)},
    "mobilenet_v2": ("mobilenetv2_100", {}),
    "mobilenet_v3_large": ("mobilenetv3_large_100", _EPS),
    "mobilenet_v3_small": ("mobilenetv3_small_100", _EPS),
    "vit_b_16": ("vit_base_patch16_224", {}),
    "vit_b_32": ("vit_base_patch32_224", {}),
    "vit_l_16": ("vit_large_patch16_224", {}),
}


def write(subject: Subject, folder: Path, _: bool = False) -> None:
    """Fill a folder that ``timm.create_model("local-dir:FOLDER", pretrained=True)`` loads.

    Args:
        subject: its model is timm's.
        folder: is empty.

    Raises:
        OSError: the disk refuses.
    """
    weights.write_safetensors(subject, folder / "model.safetensors")
    text = json.dumps(config(subject), indent=2) + "\n"
    durable.write_bytes(folder / "config.json", text.encode())


def config(subject: Subject) -> dict[str, Any]:
    """Return what ``config.json`` says: timm's fields, plain JSON values."""
    how, published = subject.preprocessing, getattr(subject.model, "pretrained_cfg", {})
    others = {name: value for name, value in subject.arguments.items() if name != "num_classes"}
    outputs = len(subject.classes)
    return {
        "architecture": subject.architecture.split(".", maxsplit=1)[0],
        "num_classes": outputs,
        "num_features": getattr(subject.model, "num_features", None),
        "label_names": list(subject.classes),
        **({"model_args": others} if others else {}),
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [3, how.image_size, how.image_size],
            "fixed_input_size": bool(published.get("fixed_input_size", False)),
            "interpolation": how.interpolation,
            "crop_pct": crop_pct(how),
            "crop_mode": "center",
            "mean": list(how.mean),
            "std": list(how.std),
            "num_classes": outputs,
            "first_conv": published.get("first_conv"),
            "classifier": published.get("classifier"),
        },
    }


def crop_pct(how: Preprocessing) -> float:
    """Return the part of the resized edge that is cropped, from which timm computes that edge.

    timm rounds ``image_size / crop_pct`` down: the number is chosen so that ``resize`` comes out.
    """
    found = how.image_size / how.resize
    while math.floor(how.image_size / found) < how.resize:
        found = math.nextafter(found, 0)
    return found


def opened(_: Subject, folder: Path, __: bool = False) -> Opened:
    """Load what was written with timm, and photos with the transform that it makes."""
    timm, data = importlib.import_module("timm"), importlib.import_module("timm.data")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = data.create_transform(**data.resolve_model_data_config(model), is_training=False)

    def of_photos(photos: Sequence[Image.Image]) -> torch.Tensor:
        scores: torch.Tensor = model(torch.stack([transform(photo) for photo in photos]))
        return scores

    return Opened(scores=model, scores_of_photos=of_photos)

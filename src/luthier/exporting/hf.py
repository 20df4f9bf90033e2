"""transformers: a folder for ``AutoModelForImageClassification`` and ``AutoImageProcessor``.

ResNet and ViT have models of their own there. Any model of timm's is loaded over its wrapper, from
timm's own layout.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from torch import nn

from luthier import vision
from luthier.errors import missing_extra
from luthier.exporting import timm
from luthier.exporting.subject import Opened, Subject
from luthier.files import durable
from luthier.values import Preprocessing

_WIDE = [256, 512, 1024, 2048]
_RESNETS: dict[str, dict[str, Any]] = {
    "resnet18": {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512]},
    "resnet34": {"depths": [3, 4, 6, 3], "hidden_sizes": [64, 128, 256, 512]},
    "resnet50": {"depths": [3, 4, 6, 3], "hidden_sizes": _WIDE},
    "resnet101": {"depths": [3, 4, 23, 3], "hidden_sizes": _WIDE},
    "resnet152": {"depths": [3, 8, 36, 3], "hidden_sizes": _WIDE},
}
_LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
_VITS: dict[str, dict[str, Any]] = {
    "vit_b_16": {"patch_size": 16},
    "vit_b_32": {"patch_size": 32},
    "vit_l_16": {"patch_size": 16, **_LARGE},
    "vit_l_32": {"patch_size": 32, **_LARGE},
}
NATIVE = (*_RESNETS, *_VITS)  # of torchvision's models


def build(name: str, classes: Sequence[str], image_size: int) -> nn.Module:
    """Build transformers' own model that computes what one of torchvision's does.

    Args:
        name: one of ``NATIVE``.
        classes: names in index order.
        image_size: of the square that it sees.

    Raises:
        MissingExtraError: transformers is not installed.
    """
    library = needed()
    labels = {
        "id2label": dict(enumerate(classes)),
        "label2id": {label: index for index, label in enumerate(classes)},
    }
    if name in _RESNETS:
        kind = "bottleneck" if _RESNETS[name]["hidden_sizes"] is _WIDE else "basic"
        config = library.ResNetConfig(**_RESNETS[name], layer_type=kind, **labels)
        model: nn.Module = library.ResNetForImageClassification(config)
    else:
        how = {"image_size": image_size, "layer_norm_eps": 1e-6, **_VITS[name]}
        model = library.ViTForImageClassification(library.ViTConfig(**how, **labels))
    return model.eval()


def needed() -> ModuleType:
    """Import transformers.

    Raises:
        MissingExtraError: it is not installed.
    """
    vision.load()  # it imports torchvision, which must be mended first
    try:
        return importlib.import_module("transformers")
    except ModuleNotFoundError:
        raise missing_extra("transformers", "hf", "transformers' format") from None


def write(subject: Subject, folder: Path, _: bool = False) -> None:
    """Fill a folder that transformers loads.

    Args:
        subject: its model is transformers' own, or timm's.
        folder: is empty.

    Raises:
        OSError: the disk refuses.
    """
    library = needed()
    if not isinstance(subject.model, library.PreTrainedModel):
        timm.write(subject, folder)
        return
    _save(subject.model, folder)
    text = json.dumps(_processor(subject.preprocessing), indent=2) + "\n"
    durable.write_bytes(folder / "preprocessor_config.json", text.encode())


def _save(model: Any, folder: Path) -> None:
    """Let the library write its files, whose names are not those of its modules."""
    try:
        with _quiet():
            model.save_pretrained(folder)
    except SafetensorError as error:
        raise OSError(errno.EIO, str(error)) from error
    for path in sorted(folder.iterdir()):  # they are its owner's alone, and not on the disk yet
        content = path.read_bytes()
        path.unlink()
        durable.write_bytes(path, content)


def _processor(how: Preprocessing) -> dict[str, Any]:
    """Return the settings of the processor that resizes the shorter edge and crops."""
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": how.resize},
        "resample": {"bilinear": 2, "bicubic": 3}[how.interpolation],
        "do_center_crop": True,
        "crop_size": {"height": how.image_size, "width": how.image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(how.mean),
        "image_std": list(how.std),
    }


def opened(_: Subject, folder: Path, __: bool = False) -> Opened:
    """Load what was written, as its user will, with its own image processor."""
    library = needed()
    with _quiet():
        where = {"local_files_only": True}
        model = library.AutoModelForImageClassification.from_pretrained(folder, **where).eval()
        processor = library.AutoImageProcessor.from_pretrained(folder, **where)

    def scores(pixels: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = model(pixel_values=pixels).logits
        return found

    def of_photos(photos: Sequence[Image.Image]) -> torch.Tensor:
        return scores(processor(list(photos), return_tensors="pt")["pixel_values"])

    return Opened(scores=scores, scores_of_photos=of_photos)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Let the library print no progress bars, and no advice."""
    logger = logging.getLogger("transformers")
    level = logger.level
    bars = importlib.import_module("transformers.utils.logging")
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        if shown and not os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS"):
            bars.enable_progress_bar()

"""Which program wrote a file, told by what only that program writes. Pure; no torch here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from luthier.files.contents import modules
from luthier.files.entries import Archive, Record
from luthier.files.wording import plain


@dataclass(frozen=True)
class _Mark:
    """A program's mark: keys that are all at the top; the last is that of a version, if any."""

    program: str
    keys: tuple[str, ...]
    version: str = ""


# The more telling ones first.
_MARKS = (
    _Mark("Lightning", ("pytorch-lightning_version",), "pytorch-lightning_version"),
    _Mark("DeepSpeed", ("ds_version",), "ds_version"),
    _Mark("MMEngine", ("meta", "state_dict", "message_hub")),
    _Mark("Detectron2", ("model", "__author__")),
    _Mark("Detectron2", ("model", "iteration")),
    _Mark("Composer", ("state", "rng")),
    _Mark("Ultralytics YOLO", ("model", "ema", "train_args"), "version"),
    _Mark("timm", ("arch", "state_dict", "epoch", "args", "version")),
    _Mark("timm", ("arch", "state_dict", "epoch", "version", "metric")),
    _Mark("DINO", ("student", "teacher", "dino_loss")),
    _Mark("fairseq", ("model", "extra_state", "last_optimizer_state")),
    _Mark("Catalyst", ("model_state_dict", "epoch_metrics")),
    _Mark("PyTorch ImageNet example", ("arch", "state_dict", "best_acc1")),
    _Mark("torchvision references", ("model", "optimizer", "lr_scheduler", "epoch", "args")),
)
# Packages whose classes are in a file that they wrote.
_PACKAGES = {
    "fastai": "fastai",
    "ultralytics": "Ultralytics YOLO",
    "pytorch_lightning": "Lightning",
    "lightning": "Lightning",
    "transformers": "Hugging Face transformers",
    "sentence_transformers": "Sentence Transformers",
    "timm": "timm",
    "torchvision": "torchvision",
    "mmengine": "MMEngine",
    "mmcv": "MMCV",
    "detectron2": "Detectron2",
    "fairseq": "fairseq",
    "speechbrain": "SpeechBrain",
    "flair": "flair",
    "skorch": "skorch",
    "joblib": "joblib",
}


def producer(archive: Archive) -> str | None:
    """Return the program that wrote a file, with its version where the file says it.

    None where nothing tells: a plain ``state_dict`` looks the same from everywhere.
    """
    if archive.metadata:
        environment = archive.metadata.get("environment")
        facts = environment if isinstance(environment, dict) else archive.metadata
        return f"luthier {_version(facts, 'luthier')}".strip()
    said = dict(archive.facts)
    for fact in ("producer", "in the folder of"):
        if fact in said:
            return plain(said[fact], 60)
    top = archive.content
    return _by_keys(top) or _by_classes(archive, top)


def _by_keys(top: Any) -> str | None:
    if not isinstance(top, dict):
        return None
    meta = top.get("meta")
    for version in ("mmengine_version", "mmcv_version"):
        if isinstance(meta, dict) and version in meta:
            return f"{'MMEngine' if 'engine' in version else 'MMCV'} {_version(meta, version)}"
    for mark in _MARKS:
        if all(key in top for key in mark.keys):
            return f"{mark.program} {_version(top, mark.version)}".strip()
    return "fastai" if top.keys() == {"model", "opt"} else None


def _version(values: Mapping[Any, Any], key: str) -> str:
    found = values.get(key)
    return plain(found, 20) if isinstance(found, str) else ""


def _by_classes(archive: Archive, top: Any) -> str | None:
    """Tell by the package of a pickled module, or of any class that is referred to."""
    values = top.values() if isinstance(top, dict) else (top,)
    whole = [value.made_by.module for value in values if _is_whole(value)]
    referred = [reference.module for reference, _ in archive.globals]
    return _known([*whole, *referred])


def _is_whole(value: Any) -> bool:
    return isinstance(value, Record) and modules.is_module(value)


def _known(names: Iterable[str]) -> str | None:
    roots = (name.partition(".")[0] for name in names)
    return next((_PACKAGES[root] for root in roots if root in _PACKAGES), None)

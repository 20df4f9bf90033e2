"""The class names of published weights: which class each row of their head stands for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_LARGEST = 64 << 20  # bytes of a config.json; that of 21,841 classes has two million
_GENERIC = "LABEL_"  # transformers' names where nobody gave any


def of_entry(entry: Any) -> tuple[str, ...]:
    """Return the class names of torchvision's published weights; () where it gives none."""
    return names(entry.meta.get("categories"))


def beside(path: Path) -> tuple[str, ...]:
    """Return the class names that a ``config.json`` beside a file gives; () without any.

    transformers writes them as ``id2label``, timm as ``label_names`` with ``label_descriptions``.
    """
    told = _config(path)
    return _of_ids(told.get("id2label")) or described(
        told.get("label_names"), told.get("label_descriptions")
    )


def timm_name(path: Path) -> str | None:
    """Return the published timm model that a ``config.json`` beside a file names, with its tag."""
    told = _config(path)
    how = told.get("pretrained_cfg")
    tag = how.get("tag") if isinstance(how, dict) else None
    return f"{told['architecture']}.{tag}" if tag and "architecture" in told else None


def _config(path: Path) -> dict[str, Any]:
    # What cannot be read gives nothing: it describes the weights and is not they.
    config = path / "config.json" if path.is_dir() else path.with_name("config.json")
    try:
        told = json.loads(config.read_bytes()) if config.stat().st_size <= _LARGEST else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _of_ids(labels: Any) -> tuple[str, ...]:
    if not isinstance(labels, Mapping):
        return ()
    try:
        by_row = {int(row): label for row, label in labels.items()}
    except (TypeError, ValueError):
        return ()
    if sorted(by_row) != list(range(len(by_row))):
        return ()
    found = names([by_row[row] for row in range(len(by_row))])
    return () if all(name.startswith(_GENERIC) for name in found) else found


def described(labels: Any, descriptions: Any = None) -> tuple[str, ...]:
    """Return timm's labels, by their descriptions where they are numbers of WordNet's synsets."""
    if isinstance(labels, Mapping):
        return _of_ids(labels)
    found = names(labels)
    if isinstance(descriptions, Mapping) and all(name in descriptions for name in found):
        return names([descriptions[name] for name in found])
    return found


def names(value: Any) -> tuple[str, ...]:
    """Return a list of texts as it is; () for anything else."""
    is_list = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    return tuple(value) if is_list and all(isinstance(name, str) for name in value) else ()

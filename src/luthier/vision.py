"""torchvision, imported so that it works.

A torchvision wheel whose compiled part was built for another torch (the CUDA build beside a
CPU torch, say) dies at ``import torchvision`` with ``operator torchvision::nms does not
exist``, though models and transforms need no compiled operator. The operators that such an
import asks for are declared here, without an implementation, before the first import.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[torch.library.Library] = []  # a Library that is collected takes its operators along


def load(name: str = "torchvision") -> ModuleType:
    """Import torchvision, or one of its submodules, by dotted name.

    Raises:
        ModuleNotFoundError: torchvision is not installed.
    """
    if "torchvision" not in sys.modules and not compiled_part_loads("_C"):
        _declare_missing_operators()
    return importlib.import_module(name)


@functools.cache
def compiled_part_loads(library: str) -> bool:
    """Tell whether torchvision's ``_C`` (operators) or ``image`` (decoders) loads beside torch."""
    folder = _folder()
    found = None if folder is None else next(iter(sorted(folder.glob(f"{library}*.so"))), None)
    if found is None:
        # Windows and macOS name it otherwise; there torchvision's own import decides.
        return folder is not None and not any(folder.glob("*.so"))
    try:
        torch.ops.load_library(found)  # type: ignore[no-untyped-call]
    except OSError:
        return False
    return True


def _folder() -> Path | None:
    spec = importlib.util.find_spec("torchvision")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def _declare_missing_operators() -> None:
    folder = _folder()
    if folder is None or _declared:
        return
    source = (folder / "_meta_registrations.py").read_text(encoding="utf-8")
    names = re.findall(r'register_fake\("torchvision::(\w+)"\)', source)
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for name in names:
        library.define(name + _SCHEMA)  # type: ignore[no-untyped-call]
    _declared.append(library)

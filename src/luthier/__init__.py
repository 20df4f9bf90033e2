"""luthier looks after a PyTorch model file for its whole life.

Importing this package imports neither torch nor numpy; each name is loaded when it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from luthier.version import __version__ as __version__

if TYPE_CHECKING:
    from luthier.adapt import load as load
    from luthier.adapt import match as match
    from luthier.errors import LuthierError as LuthierError
    from luthier.run.demo import demo as demo
    from luthier.run.finetune import Result as Result
    from luthier.run.finetune import finetune as finetune
    from luthier.run.finetune import resume as resume
    from luthier.run.own_loop import param_groups as param_groups

_HOMES = {
    "LuthierError": "luthier.errors",
    "Result": "luthier.run.finetune",
    "demo": "luthier.run.demo",
    "finetune": "luthier.run.finetune",
    "load": "luthier.adapt",
    "match": "luthier.adapt",
    "param_groups": "luthier.run.own_loop",
    "resume": "luthier.run.finetune",
}

__all__ = [
    "LuthierError",
    "Result",
    "demo",
    "finetune",
    "load",
    "match",
    "param_groups",
    "resume",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'luthier' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

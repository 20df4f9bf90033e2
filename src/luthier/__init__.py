"""luthier looks after a PyTorch model file for its whole life.

Importing this package imports neither torch nor numpy; each name is loaded when it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from luthier.version import __version__ as __version__

if TYPE_CHECKING:
    from luthier.devices.leasing import lease as lease
    from luthier.devices.leasing import pick_device as pick_device
    from luthier.devices.memory import memory_report as memory_report
    from luthier.devices.moving import to as to
    from luthier.devices.seeding import seed_everything as seed_everything
    from luthier.errors import LuthierError as LuthierError
    from luthier.handover.evaluate import Evaluated as Evaluated
    from luthier.handover.evaluate import evaluate as evaluate
    from luthier.handover.export import export as export
    from luthier.handover.predict import Predictor as Predictor
    from luthier.machine.doctor import Checkup as Checkup
    from luthier.machine.doctor import doctor as doctor
    from luthier.run.compare import Comparison as Comparison
    from luthier.run.compare import compare as compare
    from luthier.run.demo import demo as demo
    from luthier.run.explaining import explain as explain
    from luthier.run.explaining import explaining as explaining
    from luthier.run.finetune import Result as Result
    from luthier.run.finetune import finetune as finetune
    from luthier.run.finetune import resume as resume
    from luthier.run.loop import Run as Run
    from luthier.run.own_loop import load_optimizer as load_optimizer
    from luthier.run.own_loop import param_groups as param_groups
    from luthier.run.page import write_report as write_report
    from luthier.run.prove import prove as prove
    from luthier.run.tuning import tune as tune
    from luthier.run.verify import verify as verify
    from luthier.training.nonfinite import first_nonfinite as first_nonfinite
    from luthier.values import Evaluation as Evaluation
    from luthier.values import Prediction as Prediction
    from luthier.weights.convert import convert as convert
    from luthier.weights.description import describe as describe
    from luthier.weights.diff import diff as diff
    from luthier.weights.fit import load as load
    from luthier.weights.fit import match as match
    from luthier.weights.inspect import Inspection as Inspection
    from luthier.weights.inspect import inspect as inspect
    from luthier.weights.rebuilding import load_model as load_model
    from luthier.weights.registry import register as register
    from luthier.weights.save import save as save

_HOMES = {
    "Checkup": "luthier.machine.doctor",
    "Comparison": "luthier.run.compare",
    "Evaluated": "luthier.handover.evaluate",
    "Evaluation": "luthier.values",
    "Inspection": "luthier.weights.inspect",
    "LuthierError": "luthier.errors",
    "Prediction": "luthier.values",
    "Predictor": "luthier.handover.predict",
    "Result": "luthier.run.finetune",
    "Run": "luthier.run.loop",
    "compare": "luthier.run.compare",
    "convert": "luthier.weights.convert",
    "demo": "luthier.run.demo",
    "describe": "luthier.weights.description",
    "diff": "luthier.weights.diff",
    "doctor": "luthier.machine.doctor",
    "evaluate": "luthier.handover.evaluate",
    "explain": "luthier.run.explaining",
    "explaining": "luthier.run.explaining",
    "export": "luthier.handover.export",
    "finetune": "luthier.run.finetune",
    "first_nonfinite": "luthier.training.nonfinite",
    "inspect": "luthier.weights.inspect",
    "lease": "luthier.devices.leasing",
    "load": "luthier.weights.fit",
    "load_model": "luthier.weights.rebuilding",
    "load_optimizer": "luthier.run.own_loop",
    "match": "luthier.weights.fit",
    "memory_report": "luthier.devices.memory",
    "param_groups": "luthier.run.own_loop",
    "pick_device": "luthier.devices.leasing",
    "prove": "luthier.run.prove",
    "register": "luthier.weights.registry",
    "resume": "luthier.run.finetune",
    "save": "luthier.weights.save",
    "seed_everything": "luthier.devices.seeding",
    "to": "luthier.devices.moving",
    "tune": "luthier.run.tuning",
    "verify": "luthier.run.verify",
    "write_report": "luthier.run.page",
}

__all__ = [
    "Checkup",
    "Comparison",
    "Evaluated",
    "Evaluation",
    "Inspection",
    "LuthierError",
    "Prediction",
    "Predictor",
    "Result",
    "Run",
    "compare",
    "convert",
    "demo",
    "describe",
    "diff",
    "doctor",
    "evaluate",
    "export",
    "finetune",
    "inspect",
    "lease",
    "load",
    "load_model",
    "load_optimizer",
    "match",
    "memory_report",
    "param_groups",
    "pick_device",
    "prove",
    "register",
    "resume",
    "save",
    "seed_everything",
    "to",
    "tune",
    "verify",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'luthier' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

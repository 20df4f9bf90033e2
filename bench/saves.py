"""Blocked time, bytes and restore time of one save: luthier beside torch.save and its peers.

    python bench/saves.py [--rounds 7] [--models resnet18,vit_b_16]

Everything is measured in one run, the methods by turns, on the state of a model and AdamW.
"blocked" is the time in which the training loop cannot go on: inside the call, and inside the next
optimizer step where that waits for the copy. "slowed" is what the step beside the save takes longer
than the median step without one, waiting not counted: the price of working behind.
A bare copy is ``copy_`` of every tensor into buffers that are kept. Restore is reading everything
back into tensors on the host, verified where the format can be.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file
from torch import nn

from luthier import checkpoint, vision
from luthier.checkpoint import (
    Captured,
    Saver,
    State,
    capture_module,
    capture_optimizer,
    learning_in,
    names_of,
)

Tensors = dict[str, torch.Tensor]


class Subject:
    """A model in training, and its state under flat names."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        models = vision.load("torchvision.models")
        self.model = getattr(models, name)()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.names = names_of({"model": self.model})
        self.images = torch.randn(4, 3, 224, 224)
        self.waited = 0.0
        self.step()

    def step(self) -> float:
        """Take a step and return its seconds."""
        started = time.perf_counter()
        loss = self.model(self.images).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return time.perf_counter() - started

    def flat(self) -> Tensors:
        """Return model and optimizer state as one dict of tensors."""
        found = {f"model/{name}": t for name, t in self.model.state_dict().items()}
        for parameter, state in self.optimizer.state.items():
            name = self.names[parameter]
            found |= {f"{kind}/{name}": value for kind, value in state.items()}
        return found

    def parts(self) -> dict[str, Captured]:
        """Return the state as luthier takes it."""
        return {
            "model": capture_module(self.model, learning_in([self.optimizer])),
            "optimizer": capture_optimizer(self.optimizer, self.names),
        }

    def nested(self) -> dict[str, Any]:
        """Return what a hand-written loop gives to torch.save."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}


class Method:
    """A way to save. ``save`` returns when training may go on; ``finish`` when all is written."""

    def __init__(self, subject: Subject, folder: Path) -> None:
        self.subject, self.folder = subject, folder
        folder.mkdir()
        self.number = 0

    def save(self) -> None: ...

    def waited(self) -> float:
        """Return the seconds for which a step has waited since the last save."""
        return 0.0

    def finish(self) -> None: ...

    def restore(self) -> object: ...


class BareCopy(Method):
    def __init__(self, subject: Subject, folder: Path) -> None:
        super().__init__(subject, folder)
        self.kept = {name: torch.empty_like(t) for name, t in subject.flat().items()}
        self.save()

    def save(self) -> None:
        with torch.no_grad():
            for name, tensor in self.subject.flat().items():
                self.kept[name].copy_(tensor)


class Luthier(Method):
    def __init__(self, subject: Subject, folder: Path) -> None:
        super().__init__(subject, folder)
        self.saver = Saver(folder, keep=1)
        self.saver.watch(subject.optimizer)
        self.before = 0.0

    def save(self) -> None:
        self.number += 1
        self.saver.save(State(self.number, self.subject.parts(), {}, {}))
        self.before = self.saver.costs.blocked

    def waited(self) -> float:
        return self.saver.costs.blocked - self.before

    def finish(self) -> None:
        self.saver.wait()

    def restore(self) -> object:
        return checkpoint.newest(self.folder)


class TorchSave(Method):
    def save(self) -> None:
        torch.save(self.subject.nested(), self.folder / "state.pt")

    def restore(self) -> object:
        return torch.load(self.folder / "state.pt", weights_only=True)


class Safetensors(Method):
    def save(self) -> None:
        save_file(self.subject.flat(), self.folder / "state.safetensors")

    def restore(self) -> object:
        return load_file(self.folder / "state.safetensors")


class Dcp(Method):
    def save(self) -> None:
        dcp.save(self.subject.flat(), checkpoint_id=str(self.folder / "dcp"))

    def restore(self) -> object:
        into = {name: torch.empty_like(t) for name, t in self.subject.flat().items()}
        dcp.load(into, checkpoint_id=str(self.folder / "dcp"))
        return into


class DcpAsync(Dcp):
    future: Any = None

    def save(self) -> None:
        self.future = dcp.async_save(self.subject.flat(), checkpoint_id=str(self.folder / "dcp"))

    def finish(self) -> None:
        self.future.result()


METHODS: dict[str, Callable[[Subject, Path], Method]] = {
    "bare copy": BareCopy,
    "luthier": Luthier,
    "torch.save": TorchSave,
    "safetensors": Safetensors,
    "DCP save": Dcp,
    "DCP async_save": DcpAsync,
}


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure(name: str, rounds: int, folder: Path) -> None:
    subject = Subject(name)
    methods = {what: make(subject, folder / what) for what, make in METHODS.items()}
    blocked: dict[str, list[float]] = {what: [] for what in methods}
    slowed: dict[str, list[float]] = {what: [] for what in methods}
    plain: list[float] = []
    restore: dict[str, list[float]] = {what: [] for what in methods}
    for number in range(rounds + 1):
        for what, method in methods.items():
            plain.append(subject.step())
            started = time.perf_counter()
            method.save()
            inside = time.perf_counter() - started
            beside = subject.step()
            waited = method.waited()
            method.finish()
            if number:  # the first of each warms up
                blocked[what].append(inside + waited)
                slowed[what].append(beside - waited)
            if number and what != "bare copy":
                started = time.perf_counter()
                method.restore()
                restore[what].append(time.perf_counter() - started)
    usual = statistics.median(plain)
    bare = statistics.median(blocked["bare copy"])
    state = sum(t.numel() * t.element_size() for t in subject.flat().values())
    print(f"\n{name} with AdamW: {state / 1e6:.0f} MB of state, a step takes {usual:.2f} s")
    print(f"{'':16}{'blocked':>12}{'bare copies':>13}{'slowed':>10}{'bytes':>10}{'restore':>11}")
    for what in methods:
        seconds = statistics.median(blocked[what])
        slower = statistics.median(slowed[what]) - usual
        line = f"{what:16}{1e3 * seconds:9.1f} ms{seconds / bare:13.2f}{1e3 * slower:7.0f} ms"
        if what != "bare copy":
            line += f"{size_of(folder / what) / 1e6:7.0f} MB"
            line += f"{1e3 * statistics.median(restore[what]):8.0f} ms"
        print(line)


def frozen(name: str, folder: Path) -> None:
    """Print the bytes of a save after the first where a new last layer, of two classes, learns."""
    for mode in ("training", "evaluation"):
        (folder / mode).mkdir(parents=True)
        frozen_in(mode, name, folder / mode)


def frozen_in(mode: str, name: str, folder: Path) -> None:
    subject = Subject(name)
    last, old = [(n, m) for n, m in subject.model.named_modules() if isinstance(m, nn.Linear)][-1]
    subject.model.set_submodule(last, nn.Linear(old.in_features, 2))
    subject.names = names_of({"model": subject.model})
    head = list(subject.model.get_submodule(last).parameters())
    for parameter in subject.model.parameters():
        parameter.requires_grad_(any(parameter is p for p in head))
    subject.model.train(mode == "training")
    subject.optimizer = torch.optim.AdamW(head, lr=1e-4)
    saver = Saver(folder, keep=2)
    saver.watch(subject.optimizer)
    written = []
    for number in range(2):
        subject.step()
        saver.save(State(number, subject.parts(), {}, {}))
        saver.wait()
        written.append(saver.costs.written)
    torch.save(subject.nested(), folder / "state.pt")
    whole, second = (folder / "state.pt").stat().st_size, written[1] - written[0]
    print(
        f"frozen trunk in {mode} mode: {second:,} bytes written by the second save, torch.save"
        f" writes {whole:,}: {100 * second / whole:.2f} %"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--models", default="resnet18,vit_b_16")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # DCP warns that no process group is there
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name in arguments.models.split(","):
        folder = Path(tempfile.mkdtemp(prefix="saves-"))
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, folder)
            measure(name, arguments.rounds, folder)
            frozen(name, folder / "frozen")


if __name__ == "__main__":
    main()

"""What raises the errors of putting a state_dict into a model."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import nn

from known_errors import Known, Raises


class Net(nn.Module):
    """A model of somebody's own, with a trunk and a head."""

    def __init__(self, classes: int = 4, width: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, classes)


class Holder(nn.Module):
    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


def of_data_parallel(_folder: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    weights = nn.DataParallel(model).state_dict()
    model.load_state_dict(weights)


def of_compiled(_folder: Path) -> None:
    net = nn.Linear(3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.compile imports what torch itself deprecates
        compiled = torch.compile(net)
    # It has turned the checks of distributions off in this process.
    torch.distributions.Distribution.set_default_validate_args(True)
    net.load_state_dict(compiled.state_dict())


def of_compiled_in_data_parallel(_folder: Path) -> None:
    net = Net()
    weights = {f"module._orig_mod.{key}": value for key, value in net.state_dict().items()}
    net.load_state_dict(weights)


def of_an_average(_folder: Path) -> None:
    net = Net()
    average = torch.optim.swa_utils.AveragedModel(net)
    net.load_state_dict(average.state_dict())


def of_a_part(name: str) -> Raises:
    def part(_folder: Path) -> None:
        net = Net()
        saved = Holder(**{name: Net(), "projection": nn.Linear(3, 4)}).state_dict()
        net.load_state_dict(saved)

    part.__name__ = f"of_{name}"
    return part


def into_data_parallel(_folder: Path) -> None:
    net = Net()
    wrapped = nn.DataParallel(net)
    wrapped.load_state_dict(Net().state_dict())


def into_a_larger_module(_folder: Path) -> None:
    task = Holder(backbone=Net())
    task.load_state_dict(Net().state_dict())


def whole_checkpoint(folder: Path) -> None:
    net = Net()
    torch.save({"epoch": 3, "model": net.state_dict(), "optimizer": {}}, folder / "last.pt")
    ckpt = torch.load(folder / "last.pt")
    net.load_state_dict(ckpt)


def checkpoint_of_unknown_keys(_folder: Path) -> None:
    net = Net()
    saved = {"epoch": 3, "G": net.state_dict(), "D": net.state_dict()}
    net.load_state_dict(saved)


def head_of_another_size(_folder: Path) -> None:
    net, pretrained = Net(2), Net(1000).state_dict()
    net.load_state_dict(pretrained)


def two_heads_of_another_size(_folder: Path) -> None:
    net = Holder(trunk=nn.Linear(3, 8), fc=nn.Linear(8, 2), aux=nn.Linear(8, 2))
    of_file = Holder(trunk=nn.Linear(3, 8), fc=nn.Linear(8, 10), aux=nn.Linear(8, 10))
    net.load_state_dict(of_file.state_dict(), strict=False)


def vocabulary(_folder: Path) -> None:
    model = Holder(embedding=nn.Embedding(120, 8), out=nn.Linear(8, 120))
    model.load_state_dict(
        Holder(embedding=nn.Embedding(100, 8), out=nn.Linear(8, 100)).state_dict()
    )


def rows_of_an_embedding(_folder: Path) -> None:
    model = Holder(users=nn.Embedding(120, 8), out=nn.Linear(8, 2))
    model.load_state_dict(Holder(users=nn.Embedding(100, 8), out=nn.Linear(8, 2)).state_dict())


def detector(classes: int) -> nn.Module:
    scores, boxes = nn.Linear(8, classes), nn.Linear(8, 4 * classes)
    return Holder(trunk=nn.Linear(3, 8), predictor=Holder(cls_score=scores, bbox_pred=boxes))


def detector_of_other_classes(_folder: Path) -> None:
    net, coco = detector(2), detector(91).state_dict()
    net.load_state_dict(coco)


class Positions(nn.Module):
    def __init__(self, grid: int, extra: int = 1) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.zeros(1, grid * grid + extra, 4))
        self.fc = nn.Linear(4, 2)


def positions(_folder: Path) -> None:
    model = Positions(4)
    model.load_state_dict(Positions(3).state_dict())


def positions_without_class(_folder: Path) -> None:
    model = Positions(4, 0)
    model.load_state_dict(Positions(3, 0).state_dict())


def gray_images(_folder: Path) -> None:
    net = Holder(conv1=nn.Conv2d(1, 8, 3), fc=nn.Linear(8, 2))
    rgb = Holder(conv1=nn.Conv2d(3, 8, 3), fc=nn.Linear(8, 2)).state_dict()
    net.load_state_dict(rgb)


def head_of_another_form(_folder: Path) -> None:
    net = Holder(conv=nn.Conv2d(3, 4, 3), fc=nn.Sequential(nn.Dropout(), nn.Linear(4, 2)))
    weights = Holder(conv=nn.Conv2d(3, 4, 3), fc=nn.Linear(4, 2)).state_dict()
    net.load_state_dict(weights)


def wider(_folder: Path) -> None:
    net = Net(width=16)
    net.load_state_dict(Net(width=8).state_dict())


def one_tensor_wider(_folder: Path) -> None:
    net = Holder(proj=nn.Linear(8, 4, bias=False))
    net.load_state_dict(Holder(proj=nn.Linear(6, 4, bias=False)).state_dict())


def arrays(_folder: Path) -> None:
    net = nn.Linear(3, 2)
    weights = {key: value.numpy() for key, value in net.state_dict().items()}
    net.load_state_dict(weights)


def into_a_view(_folder: Path) -> None:
    net = nn.Linear(3, 2)
    weights = net.state_dict() | {"bias": torch.ones(2)}
    net.bias = nn.Parameter(torch.zeros(1).expand(2))
    net.load_state_dict(weights)


def another_architecture(_folder: Path) -> None:
    net = Net()
    net.load_state_dict(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)).state_dict())


def trunk_alone(_folder: Path) -> None:
    net = Net()
    trunk = {key: value for key, value in net.state_dict().items() if not key.startswith("fc.")}
    net.load_state_dict(trunk)


def nothing(_folder: Path) -> None:
    Net().load_state_dict({})


def more_than_the_model(_folder: Path) -> None:
    net = nn.Linear(3, 2)
    weights = net.state_dict() | {"aux.weight": torch.zeros(2)}
    net.load_state_dict(weights)


def counters(_folder: Path) -> None:
    net = nn.Linear(3, 2)
    weights = net.state_dict() | {"total_ops": torch.zeros(1)}
    net.load_state_dict(weights)


def path_for_state(_folder: Path) -> None:
    net = Net()
    net.load_state_dict("net.pt")  # type: ignore[arg-type]


def pathlib_path_for_state(folder: Path) -> None:
    net = Net()
    net.load_state_dict(folder / "net.pt")  # type: ignore[arg-type]


def module_for_state(_folder: Path) -> None:
    net, teacher = Net(), Net()
    net.load_state_dict(teacher)  # type: ignore[arg-type]


def none_for_state(_folder: Path) -> None:
    Net().load_state_dict(None)  # type: ignore[arg-type]


def list_for_state(_folder: Path) -> None:
    Net().load_state_dict([torch.zeros(3)])  # type: ignore[arg-type]


def result_as_model(_folder: Path) -> None:
    net = Net()
    net = net.load_state_dict(net.state_dict())  # type: ignore[assignment]
    net.eval()


def result_called(_folder: Path) -> None:
    net = Net()
    net = net.load_state_dict(net.state_dict())  # type: ignore[assignment]
    net(torch.zeros(1))


KNOWN: Known = {
    "module-prefix": [
        of_data_parallel,
        of_compiled,
        of_compiled_in_data_parallel,
        of_an_average,
        *(of_a_part(name) for name in ("model", "net", "backbone", "encoder")),
    ],
    "missing-module-prefix": [into_data_parallel, into_a_larger_module],
    "whole-checkpoint": [whole_checkpoint, checkpoint_of_unknown_keys],
    "head-of-another-size": [
        head_of_another_size,
        two_heads_of_another_size,
        detector_of_other_classes,
    ],
    "embedding-of-another-size": [vocabulary],
    "position-embedding-of-another-size": [positions, positions_without_class],
    "input-of-other-channels": [gray_images],
    "head-of-another-form": [head_of_another_form],
    "sizes-of-another-architecture": [wider, one_tensor_wider],
    "values-that-are-no-tensors": [arrays],
    "value-not-copied": [into_a_view],
    "keys-of-another-architecture": [another_architecture],
    "missing-keys": [trunk_alone, nothing],
    "unexpected-keys": [more_than_the_model, counters],
    "path-as-state-dict": [path_for_state, pathlib_path_for_state],
    "module-as-state-dict": [module_for_state],
    "no-state-dict": [none_for_state, list_for_state],
    "result-of-load-state-dict": [result_as_model, result_called],
}

"""Modules that are made, called or compiled wrongly; a part of ``training``."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from known_errors import Known, Recorded
from luthier import vision


def images() -> torch.Tensor:
    return torch.zeros(2, 3, 64, 64)


class WithoutSuper(nn.Module):
    def __init__(self) -> None:
        self.fc = nn.Linear(3, 2)


class WithoutSuperOrLayers(nn.Module):
    def __init__(self) -> None:
        self.size = 3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Misspelt(nn.Module):
    def foward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class OfTwo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)

    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.con1(image) * mask


class WithoutReturn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> None:
        self.body(x)


def layer_before_init(_folder: Path) -> None:
    WithoutSuper()


def call_before_init(_folder: Path) -> None:
    model = WithoutSuperOrLayers()
    model(images())


def misspelt_forward(_folder: Path) -> None:
    model = Misspelt()
    model(images())


def called_list(_folder: Path) -> None:
    layers = nn.ModuleList([nn.Linear(3, 2)])
    layers(images())


def one_argument_short(_folder: Path) -> None:
    model = OfTwo()
    model(images())


def one_argument_long(_folder: Path) -> None:
    batch = (torch.ones(2, 3), torch.zeros(2))
    nn.Linear(3, 2)(*batch)


def two_through_sequential(_folder: Path) -> None:
    model = nn.Sequential(nn.ReLU(), OfTwo())
    model(images())


def unknown_argument(_folder: Path) -> None:
    nn.Linear(3, 2)(torch.ones(2, 3), mask=None)


def attribute_of_wrapped(_folder: Path) -> None:
    wrapped = nn.DataParallel(nn.Linear(3, 2))
    print(wrapped.in_features)


def head_of_another(_folder: Path) -> None:
    model = vision.load("torchvision.models").mobilenet_v2()
    model.fc = nn.Linear(model.fc.in_features, 10)


def misspelt_layer(_folder: Path) -> None:
    model = OfTwo()
    model(images(), torch.ones(1))


def weights_evaluated(folder: Path) -> None:
    torch.save(nn.Linear(3, 2).state_dict(), folder / "model.pt")
    model = torch.load(folder / "model.pt")
    model.eval()


def checkpoint_moved(folder: Path) -> None:
    torch.save({"model": nn.Linear(3, 2).state_dict(), "epoch": 3}, folder / "model.pt")
    net = torch.load(folder / "model.pt")
    net.to("cpu")


def gradient_before_backward(_folder: Path) -> None:
    weight = torch.ones(3, requires_grad=True)
    weight.grad.zero_()  # type: ignore[union-attr]


def gradient_of_a_result(_folder: Path) -> None:
    features = nn.Linear(3, 2)(torch.ones(1, 3))
    features.sum().backward()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says of which kind the tensor is
        features.grad.norm()  # type: ignore[union-attr]


def nothing_returned(_folder: Path) -> None:
    model = nn.Sequential(WithoutReturn(), nn.Linear(2, 2))
    model(torch.ones(1, 3))


def no_loss(_folder: Path) -> None:
    loss = WithoutReturn()(torch.ones(1, 3))
    loss.backward()


def auxiliary(_folder: Path) -> None:
    model = vision.load("torchvision.models").googlenet(num_classes=2, init_weights=False)
    outputs = model(images())
    nn.functional.cross_entropy(outputs, torch.tensor([0, 1]))


def lstm_output(_folder: Path) -> None:
    model = nn.Sequential(nn.LSTM(3, 4), nn.Linear(4, 2))
    model(torch.ones(5, 3))


def output_of_segmentation(_folder: Path) -> None:
    outputs = nn.ModuleDict({"out": nn.Linear(3, 2)})
    result = {name: layer(torch.ones(1, 3)) for name, layer in outputs.items()}
    nn.functional.cross_entropy(result, torch.tensor([0]))  # type: ignore[arg-type]


def without_compiler(folder: Path) -> None:
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patched:
        warnings.simplefilter("ignore")
        patched.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
        patched.setenv("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")
        import torch._inductor.config as settings  # noqa: PLC0415 - it takes long

        with settings.patch({"cpp.cxx": (None, str(folder / "g++")), "compile_threads": 1}):
            torch.compile(nn.Linear(3, 2))(torch.ones(1, 3).sin())


KNOWN: Known = {
    "module-before-init": [layer_before_init, call_before_init],
    "forward-missing": [misspelt_forward, called_list],
    "forward-arguments": [
        one_argument_short,
        one_argument_long,
        two_through_sequential,
        unknown_argument,
    ],
    "wrapped-model-attribute": [attribute_of_wrapped],
    "layer-not-there": [head_of_another, misspelt_layer],
    "weights-instead-of-model": [weights_evaluated, checkpoint_moved],
    "gradient-is-none": [gradient_before_backward, gradient_of_a_result],
    "output-is-none": [nothing_returned, no_loss],
    "output-is-several": [auxiliary, lstm_output, output_of_segmentation],
    "compiler-missing": [without_compiler],
}
RECORDED: Recorded = {
    "compiler-missing": ["no_c_compiler_2_4", "no_c_compiler_2_9", "no_cxx_compiler_2_4"],
    "triton-missing": ["no_triton_2_4", "no_triton_2_9"],
    "gpu-too-old-for-triton": ["gpu_too_old_for_triton"],
}

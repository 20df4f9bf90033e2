"""Models by name: built, the head found, replaced and checked."""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from luthier import vision
from luthier.errors import ModelError
from luthier.models import Head, build, check_head, find_head, replace_head

_MODELS = vision.load("torchvision.models")
TORCHVISION = _MODELS.list_models(module=_MODELS)
TIMM = (
    "timm/resnet18",
    "timm/vit_tiny_patch16_224",
    "timm/efficientnet_lite0",
    "timm/convnext_atto",
)
SMALL = (
    "densenet121",
    "efficientnet_b0",
    "mnasnet0_5",
    "mobilenet_v2",
    "regnet_y_400mf",
    "resnet18",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
)
OTHER_FAMILIES = (
    "alexnet",
    "convnext_tiny",
    "mobilenet_v3_small",
    "regnet_x_32gf",
    "resnext50_32x4d",
    "swin_t",
    "vgg16",
    "vit_b_16",
)


class _NoStorage(TorchFunctionMode):
    """Put what layers allocate on the meta device; small numbers stay readable."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


@functools.cache
def original_skeleton(name: str) -> nn.Module:
    """Build a model on the meta device: its structure without its numbers. Not to be changed."""
    with _NoStorage():
        model = build(name, 3)
    return model.to("meta")


def skeleton(name: str) -> nn.Module:
    """Give a skeleton that may be changed."""
    return copy.deepcopy(original_skeleton(name))


@pytest.mark.parametrize("name", TORCHVISION)
def test_the_head_of_every_torchvision_model_is_found_and_replaced(name: str) -> None:
    model = skeleton(name)
    head = find_head(model)
    assert head.outputs == 1000
    wide = [
        n
        for n, m in model.named_modules()
        if 1000 in (getattr(m, "out_features", 0), getattr(m, "out_channels", 0))
    ]
    assert head.name == wide[-1]
    kind, bias = type(model.get_submodule(head.name)), model.get_submodule(head.name).bias
    assert replace_head(model, head, 3) == Head(head.name, 3)
    new = model.get_submodule(head.name)
    assert type(new) is kind
    assert (new.bias is None) == (bias is None)
    assert new.weight.shape[0] == 3
    assert find_head(model) == Head(head.name, 3)


@pytest.mark.parametrize("name", OTHER_FAMILIES)
def test_a_forward_gives_one_score_a_class_in_every_family(name: str) -> None:
    model = skeleton(name)
    replace_head(model, find_head(model), 3)
    with torch.no_grad():
        scores = model.to("meta").eval()(torch.empty(2, 3, 224, 224, device="meta"))
    assert tuple(scores.shape) == (2, 3)


@pytest.mark.parametrize("name", SMALL)
def test_small_models_pass_the_check_with_three_classes(name: str) -> None:
    torch.manual_seed(0)
    model = build(name, 3)
    head = replace_head(model, find_head(model), 3)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    check_head(model, head, 64)
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "auxiliary"),
    [("googlenet", ("aux1", "aux2")), ("inception_v3", ("AuxLogits",))],
)
def test_auxiliary_heads_are_taken_off(name: str, auxiliary: tuple[str, ...]) -> None:
    model = skeleton(name)
    assert [getattr(model, a) for a in auxiliary] == [None] * len(auxiliary)
    assert not [k for k in model.state_dict() if k.startswith(auxiliary)]
    replace_head(model, find_head(model), 3)
    size = 299 if name == "inception_v3" else 224
    output = model.to("meta").train()(torch.empty(2, 3, size, size, device="meta"))
    assert isinstance(output, torch.Tensor)  # no tuple of main and auxiliary scores
    assert tuple(output.shape) == (2, 3)


@pytest.mark.parametrize("name", TIMM)
def test_timm_models_are_built_and_get_another_head(name: str) -> None:
    torch.manual_seed(0)
    model = build(name, 3)
    assert find_head(model).outputs == 1000
    assert find_head(model).name in ("fc", "head", "classifier", "head.fc")
    head = replace_head(model, find_head(model), 3)
    check_head(model, head, 224 if "vit" in name else 64)
    assert model.num_classes == 3


def test_the_classifier_that_a_timm_model_names_wins_over_the_last_layer() -> None:
    model = build("timm/resnet18", 3)
    model.add_module("later", nn.Linear(2, 7))
    assert find_head(model) == Head("fc", 1000)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet81", "'resnet18'"),
        ("mobilnet_v2", "'mobilenet_v2'"),
        ("timm/vit_tiny_patch16_223", "'vit_tiny_patch16_224'"),
    ],
)
def test_an_unknown_name_gives_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ModelError, match=f"unknown .*did you mean {near}"):
        build(name, 3)


def test_a_detection_model_is_no_classification_model() -> None:
    with pytest.raises(ModelError, match="unknown model 'fasterrcnn_resnet50_fpn'"):
        build("fasterrcnn_resnet50_fpn", 3)


def test_an_unknown_tag_of_a_timm_model_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="nonsense"):
        build("timm/resnet18.nonsense", 3)


OWN = """
import torch
from torch import nn

A_NUMBER = 5

class Net(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.fc = nn.Linear(3, num_classes)
    def forward(self, x):
        return self.fc(x.mean((2, 3)))

class Zoo:
    Net = Net

def plain():
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))

def no_module():
    return {"not": "a module"}

def broken(num_classes):
    raise RuntimeError(f"no {num_classes} today")
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Write modules into a working directory; they are forgotten after the test."""
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)

    write("own_net", OWN)
    yield write
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) in map(str, tmp_path.glob("*.py")):
            del sys.modules[name]


@pytest.mark.usefixtures("own")
def test_an_own_class_gets_the_number_of_classes() -> None:
    path = list(sys.path)
    model = build("own_net:Net", 4)
    assert find_head(model) == Head("fc", 4)
    check_head(model, find_head(model), 8)
    assert find_head(build("own_net:Zoo.Net", 6)).outputs == 6
    assert sys.path == path


@pytest.mark.usefixtures("own")
def test_an_own_function_without_num_classes_keeps_its_head() -> None:
    assert find_head(build("own_net:plain", 4)) == Head("2", 5)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("own_net:no_module", "returned a dict, expected a torch.nn.Module"),
        ("own_net:broken", "could not be called: RuntimeError: no 4 today"),
        ("own_net:A_NUMBER", "is a int, expected a function or class"),
        ("own_net:Missing", "was not found: .*Missing"),
        ("own_net_of_others:Net", "was not found: .*own_net_of_others"),
        (":Net", "was not found"),
        ("own_net:", "was not found"),
        (".own_net:Net", "was not found"),
    ],
)
def test_an_own_model_that_cannot_be_had_says_why(name: str, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        build(name, 4)


@pytest.mark.parametrize(
    ("text", "says"),
    [("def f(:\n", "SyntaxError|invalid syntax"), ("raise RuntimeError('at import')", "at import")],
)
def test_an_own_module_that_fails_at_import_is_a_model_error(
    own: Callable[[str, str], None], text: str, says: str
) -> None:
    own("own_broken", text)
    with pytest.raises(ModelError, match=says):
        build("own_broken:f", 4)


def test_an_own_module_may_extend_the_module_path(
    own: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    own("own_path", "import sys\nsys.path.insert(0, '/own/place')\nfrom own_net import Net\n")
    build("own_path:Net", 4)
    assert "/own/place" in sys.path
    assert str(tmp_path) not in sys.path


def test_a_named_head_is_taken() -> None:
    model = skeleton("vgg11")
    assert find_head(model, "classifier.3") == Head("classifier.3", 4096)
    assert replace_head(model, find_head(model, "classifier.6"), 3) == Head("classifier.6", 3)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("classifier.7", r"not in the model, .*did you mean 'classifier\.[036]'"),
        ("classifier", "is a Sequential, expected a Linear or Conv2d"),
        ("features.1", "is a ReLU"),
    ],
)
def test_a_wrong_head_name_is_refused(name: str, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        find_head(skeleton("vgg11"), name)


def test_a_model_without_a_layer_has_no_head() -> None:
    with pytest.raises(ModelError, match="Sequential has no Linear or Conv2d"):
        find_head(nn.Sequential(nn.Flatten(), nn.ReLU()))


class Misordered(nn.Module):
    """Registers its head first and another layer last."""

    def __init__(self, classes: int = 10, *, uses_last: bool = False) -> None:
        super().__init__()
        self.uses_last = uses_last
        self.head = nn.Linear(3, classes)
        self.embed = nn.Linear(3, 3 if uses_last else 7)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = images.mean((2, 3))
        return self.head(self.embed(x) if self.uses_last else x)


@pytest.mark.parametrize("uses_last", [False, True])
def test_a_layer_taken_for_the_head_by_mistake_is_told_and_how_to_name_it(
    uses_last: bool,
) -> None:
    model = Misordered(uses_last=uses_last)
    wrong = replace_head(model, find_head(model), 5)
    assert wrong.name == "embed"
    with pytest.raises(ModelError, match=r"'embed'(.|\n)*--head-module"):
        check_head(model, wrong, 16)
    model = Misordered(uses_last=uses_last)
    check_head(model, replace_head(model, find_head(model, "head"), 5), 16)


def test_a_layer_that_the_forward_never_uses_is_not_taken_for_the_head() -> None:
    model = Misordered(5)  # gives five scores whatever is done to the other layer
    wrong = replace_head(model, find_head(model), 5)
    with pytest.raises(ModelError, match=r"'embed'(.|\n)*--head-module"):
        check_head(model, wrong, 16)


def test_an_image_size_that_the_model_refuses_is_told() -> None:
    model = build("timm/vit_tiny_patch16_224", 3)
    with pytest.raises(ModelError, match=r"fails on a 100 x 100 RGB image(.|\n)*--image-size"):
        check_head(model, find_head(model), 100)
    assert model.training

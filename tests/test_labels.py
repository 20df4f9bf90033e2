"""The class names of weights: of torchvision, timm, luthier's model files, and config.json."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.adapt.classes import match_classes
from luthier.files import tensors
from luthier.models import from_timm, labels, start_weights

MOBILENET = "mobilenet_v2-b0353104.pth"


def weights_beside(folder: Path, config: Any) -> Path:
    path = folder / "model.safetensors"
    tensors.write(path, {"fc.weight": torch.zeros(3, 2)})
    text = config if isinstance(config, str) else json.dumps(config)
    (folder / "config.json").write_text(text)
    return path


def test_torchvisions_file_is_known_by_its_name(shared: Path, tmp_path: Path) -> None:
    start = start_weights("mobilenet_v2", str(shared / "weights" / MOBILENET))
    assert len(start.classes) == 1000
    assert (start.classes[310], start.classes[309]) == ("ant", "bee")
    renamed = tmp_path / "mine.pth"
    shutil.copy(shared / "weights" / MOBILENET, renamed)
    assert start_weights("mobilenet_v2", str(renamed)).classes == ()


def test_luthiers_model_files_say_their_classes(tmp_path: Path) -> None:
    look = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}
    path = tmp_path / "model.safetensors"
    told = {"preprocessing": look, "classes": ["cat", "dog"]}
    tensors.write(path, {"w": torch.zeros(1)}, told)
    assert start_weights("resnet18", str(path)).classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("config", "classes"),
    [
        ({"id2label": {"1": "b", "0": "a", "2": "c"}}, ("a", "b", "c")),
        ({"label_names": ["a", "b"]}, ("a", "b")),
        (
            {"label_names": ["n1", "n2"], "label_descriptions": {"n1": "ant, emmet", "n2": "bee"}},
            ("ant, emmet", "bee"),
        ),
        ({"label_names": {"0": "a", "1": "b"}}, ("a", "b")),
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, ()),
        ({"id2label": {"0": "a", "2": "c"}}, ()),
        ({"id2label": {"zero": "a"}}, ()),
        ({"id2label": {"0": 7}}, ()),
        ({"id2label": ["a"]}, ()),
        ({"label_names": "ab"}, ()),
        ({"label_names": [1, 2]}, ()),
        ([], ()),
        ("{", ()),
        ("[" * 100_000, ()),
    ],
)
def test_a_config_beside_the_file(tmp_path: Path, config: Any, classes: tuple[str, ...]) -> None:
    path = weights_beside(tmp_path, config)
    assert labels.beside(path) == labels.beside(tmp_path) == classes
    assert start_weights("resnet18", str(path)).classes == classes


def test_without_a_config_there_are_no_names(tmp_path: Path) -> None:
    assert labels.beside(tmp_path / "model.safetensors") == ()


def test_timm_names_the_classes_of_its_weights() -> None:
    pytest.importorskip("timm")
    names = from_timm.class_names("resnet18.a1_in1k")
    assert len(names) == 1000
    assert names[310] == "ant, emmet, pismire"
    found = match_classes(["emmets", "bees", "crane"], names)
    assert found.rows == (310, 309, None)
    assert len(from_timm.class_names("vit_base_patch16_224.augreg_in21k")) == 21843
    assert from_timm.class_names("resnet18.no_such_tag") == ()
    assert from_timm.class_names("no_such_model") == ()


def test_a_file_of_timms_is_known_by_its_config_or_its_name(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    config = {"architecture": "resnet18", "pretrained_cfg": {"tag": "a1_in1k"}}
    path = weights_beside(tmp_path, config)
    assert start_weights("timm/resnet18", str(path)).classes[310] == "ant, emmet, pismire"
    weights_beside(tmp_path, {"label_names": ["x", "y"]})
    assert start_weights("timm/resnet18", str(path)).classes == ("x", "y")
    weights_beside(tmp_path, {})
    assert start_weights("timm/resnet18", str(path)).classes == ()
    published = tmp_path / "other" / "resnet18_a1_0-d63eafa0.pth"
    assert len(from_timm.file_class_names("resnet18", published)) == 1000

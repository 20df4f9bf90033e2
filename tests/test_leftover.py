"""What a file has and the model has not: no harm beside it, another network inside its blocks."""

from __future__ import annotations

import pytest
import torch

import luthier
from luthier import vision
from luthier.adapt.leftover import inside
from luthier.errors import DoesNotFitError
from luthier.values import TensorSpec

tv = vision.load("torchvision.models")

USED = ["net.conv.weight", "net.blocks.0.a.weight", "net.blocks.1.a.weight", "net.layer1.x.weight"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("net.blocks.2.a.weight", True),  # one block more
        ("net.blocks.0.se.weight", True),  # one layer more in a block
        ("net.blocks.0.a.bias", True),  # a bias more
        ("net.layer2.x.weight", True),
        ("net.layer1.down.weight", True),
        ("net.pooler.weight", False),  # beside the blocks
        ("net.head1.weight", False),  # of no family that was used
        ("net.conv.bias", False),
        ("criterion.weight", False),
        ("teacher.blocks.0.a.weight", False),  # beside the whole
        ("net.blocks.0.rope.inv_freq", False),  # computed
    ],
)
def test_inside_is_what_belongs_to_a_numbered_block(name: str, expected: bool) -> None:
    file = {n: TensorSpec((1,), "float32") for n in [*USED, name]}
    assert inside([name], USED, file) == ((name,) if expected else ())
    file[name] = TensorSpec((1,), "int64")  # an index, a count: no weight
    assert inside([name], USED, file) == ()


def test_a_sequence_with_one_more_is_another_network() -> None:
    file = {f"{i}.weight": TensorSpec((1,), "float32") for i in range(4)}
    assert inside(["3.weight"], ["0.weight", "1.weight", "2.weight"], file) == ("3.weight",)
    # A trunk and its head in a sequence: the trunk alone was wanted.
    file = {n: TensorSpec((1,), "float32") for n in ("0.a.weight", "0.b.weight", "1.weight")}
    assert inside(["1.weight"], ["0.a.weight", "0.b.weight"], file) == ()


def test_nothing_used_holds_nothing() -> None:
    assert inside(["a.0.weight"], [], {"a.0.weight": TensorSpec((1,), "float32")}) == ()


def test_a_deeper_network_of_the_same_names_is_refused_and_can_be_had() -> None:
    deep, model = tv.resnet34(), tv.resnet18()
    before = model.conv1.weight.detach().clone()
    with pytest.raises(DoesNotFitError, match="of another network") as error:
        luthier.load(model, deep.state_dict())
    assert "part of its blocks in the file: layer1.2.conv1.weight" in str(error.value)
    assert torch.equal(model.conv1.weight, before)
    assert not luthier.match(model, deep.state_dict()).fits
    luthier.load(model, deep.state_dict(), coverage=0.99)
    assert torch.equal(model.conv1.weight, deep.conv1.weight)

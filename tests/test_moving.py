"""Moving anything to a device, and leasing in a Python program. "meta" stands for a device here."""

from __future__ import annotations

import os
from collections import OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

import luthier
from luthier.errors import LeaseError, RecipeError

Point = namedtuple("Point", "x y")


@dataclass(frozen=True)
class Frozen:
    images: torch.Tensor
    names: tuple[str, ...]
    count: int = field(init=False, default=7)


@dataclass(slots=True)
class Slotted:
    images: torch.Tensor


def ones() -> torch.Tensor:
    return torch.ones(2)


def test_a_module_is_moved_in_place_and_its_parameters_stay_themselves() -> None:
    model = nn.Linear(2, 2)
    weight = model.weight
    assert luthier.to(model, "cpu", torch.float64) is model
    assert model.weight is weight
    assert weight.dtype == torch.float64


@pytest.mark.parametrize(
    ("batch", "tensors"),
    [
        (ones(), lambda b: [b]),
        ((ones(), [ones(), "name", 3]), lambda b: [b[0], b[1][0]]),
        ({"a": ones(), "b": {"c": ones()}}, lambda b: [b["a"], b["b"]["c"]]),
        (OrderedDict(a=ones()), lambda b: [b["a"]]),
        (defaultdict(list, a=[ones()]), lambda b: [b["a"][0]]),
        (Point(ones(), None), lambda b: [b.x]),
        (Frozen(ones(), ("ant",)), lambda b: [b.images]),
        (Slotted(ones()), lambda b: [b.images]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_batch_is_moved_by_value(batch: Any, tensors: Any) -> None:
    moved = luthier.to(batch, "meta")
    assert type(moved) is type(batch)
    assert all(tensor.is_meta for tensor in tensors(moved))
    assert not any(tensor.is_meta for tensor in tensors(batch))
    if isinstance(batch, Frozen):
        assert (moved.names, moved.count) == (("ant",), 7)
    if isinstance(batch, defaultdict):
        assert moved["new"] == []


def test_a_dtype_is_for_floating_point_and_what_is_there_is_not_copied() -> None:
    batch = {"images": ones(), "labels": torch.tensor([1]), "name": "a"}
    moved = luthier.to(batch, "cpu", torch.bfloat16)
    assert (moved["images"].dtype, moved["labels"].dtype) == (torch.bfloat16, torch.int64)
    assert luthier.to(batch, "cpu")["images"] is batch["images"]
    packed = pack_sequence([ones()])
    assert luthier.to(packed, "cpu").data.equal(packed.data)
    assert luthier.to("text", "cpu") == "text"
    assert luthier.to(Point, "cpu") is Point


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks what there is without a GPU")
def test_without_an_accelerator_there_is_none_to_lease_and_the_best_device_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUTHIER_LEASES", str(tmp_path))
    before = dict(os.environ)
    with (
        pytest.raises(LeaseError, match="1 accelerator asked for, and there is none"),
        luthier.lease(),
    ):
        pass
    assert dict(os.environ) == before
    assert luthier.pick_device().type in ("cpu", "mps", "xpu")
    with pytest.raises(RecipeError, match="min_free ten"), luthier.lease(min_free="ten"):
        pass


def test_a_lease_that_comes_too_late_says_where_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with (
        pytest.raises(LeaseError, match=r"comes too late.*\n.*above the first use"),
        luthier.lease(),
    ):
        pass

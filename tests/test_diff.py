"""Comparing: a file equals itself, one flipped bit is found and named, moves are measured."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import luthier
from luthier.cli.main import main
from luthier.files.dtypes import DTYPES
from luthier.models.lenet import LeNet
from luthier.weights import difference as module
from luthier.weights.difference import difference
from test_save import random_bits

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support")


def saved(path: Path, **state: torch.Tensor) -> Path:
    torch.save(state, path)
    return path


# --- two tensors ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_a_flipped_bit_is_seen_in_any_dtype_and_equal_bits_are_equal(
    dtype: str, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PIECE", piece)
    one = random_bits(dtype, 4, 5)
    assert difference(one, one.clone()).differing == 0
    assert difference(one.t(), one.t().contiguous()).differing == 0
    for place in (0, 11, 19):
        other = one.clone()
        raw = other.view(-1).view(torch.uint8)
        raw[place * one.element_size()] ^= 1
        found = difference(one, other)
        assert (found.elements, found.differing) == (20, 1)


def test_differences_are_measured() -> None:
    one = torch.tensor([1.0, -2.0, 0.0, 4.0])
    other = torch.tensor([1.0, -2.5, 1e-3, 4.0])
    found = difference(one, other)
    assert (found.differing, found.not_finite) == (2, 0)
    assert found.max_abs == 0.5
    assert found.max_rel == 1.0
    assert found.moved == pytest.approx(math.sqrt(0.25 + 1e-6))
    assert found.part == pytest.approx(found.moved / math.sqrt(21))


def test_numbers_that_are_none_equal_themselves_by_their_bits() -> None:
    nan, inf = math.nan, math.inf
    one = torch.tensor([nan, inf, 1.0, nan, -0.0])
    assert difference(one, one.clone()).differing == 0
    found = difference(one, torch.tensor([nan, -inf, nan, 3.0, 0.0]))
    assert (found.differing, found.not_finite) == (4, 3)
    assert found.max_abs == 0.0


def test_whole_numbers_are_compared_exactly() -> None:
    one = torch.tensor([2**60, -(2**63), 5])
    found = difference(one, torch.tensor([2**60 + 1, 2**63 - 1, 5]))
    assert found.differing == 2
    assert found.max_abs == float(2**64)
    assert difference(one[:1], torch.tensor([2**60 + 1])).max_abs == 1.0


def test_other_dtypes_are_compared_by_value() -> None:
    one = torch.tensor([1.0, 0.1, math.nan])
    found = difference(one, one.half())
    assert found.differing == 1
    assert found.max_abs == pytest.approx(abs(0.1 - float(torch.tensor(0.1).half())), rel=1e-3)
    assert difference(one.half(), one.half().double()).differing == 0
    assert difference(torch.tensor([2**62]), torch.tensor([2**62]).double()).differing == 0
    whole = torch.tensor([2**60 + 1])
    assert difference(whole, torch.tensor([2**60], dtype=torch.uint64)).differing == 1


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=30),
    st.data(),
)
def test_the_measures_are_those_of_plain_python(one: list[float], data: st.DataObject) -> None:
    floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
    other = data.draw(st.lists(floats, min_size=len(one), max_size=len(one)))
    found = difference(torch.tensor(one), torch.tensor(other))
    apart = [abs(a - b) for a, b in zip(one, other, strict=True)]
    parts = [d / max(abs(a), abs(b)) for d, a, b in zip(apart, one, other, strict=True) if d]
    assert found.max_abs == max(apart)
    assert found.max_rel == pytest.approx(max(parts, default=0.0))
    assert found.moved == pytest.approx(math.dist(one, other))


# --- two files --------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_file_equals_itself_in_any_format(tmp_path: Path, suffix: str) -> None:
    model = LeNet(2)
    torch.save({"model": nn.DataParallel(model).state_dict(), "epoch": 1}, tmp_path / "a.pt")
    luthier.save(model, tmp_path / f"b.{suffix}")
    assert luthier.diff(tmp_path / "a.pt", tmp_path / "a.pt").same
    found = luthier.diff(tmp_path / "a.pt", tmp_path / f"b.{suffix}")
    assert found.same
    assert found.equal == 10
    assert str(found).startswith("equal: 10 tensors, to the bit")
    assert found.notes == ("a: what wrappers put into 10 names is left out of the comparison",)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 9), st.integers(0, 10**6), st.integers(0, 7))
def test_one_flipped_bit_is_found_and_named(
    tmp_path_factory: pytest.TempPathFactory, index: int, place: int, bit: int
) -> None:
    folder = tmp_path_factory.mktemp("flip")
    state = LeNet(2).state_dict()
    luthier.save(state, folder / "a.safetensors")
    name = list(state)[index]
    raw = state[name].view(-1).view(torch.uint8)
    raw[place % len(raw)] ^= 1 << bit
    luthier.save(state, folder / "b.pt")
    found = luthier.diff(folder / "a.safetensors", folder / "b.pt")
    assert [change.name for change in found.changed] == [name]
    assert found.changed[0].difference is not None
    assert found.changed[0].difference.differing == 1
    assert not found.same
    assert name in str(found)
    moved = [layer for layer in found.layers if layer.tensors]
    assert [(layer.name, layer.tensors, layer.of) for layer in moved] == [
        (name.split(".")[0], 1, 2)
    ]


def test_names_shapes_and_dtypes_that_differ_are_said(tmp_path: Path) -> None:
    both = torch.arange(3.0)
    a = saved(tmp_path / "a.pt", same=both, shape=torch.ones(2), cast=both, old=both)
    b = saved(tmp_path / "b.pt", same=both, shape=torch.ones(3), cast=both.half(), new=both)
    found = luthier.diff(a, b)
    assert found.only == (("old",), ("new",))
    assert found.equal == 1
    assert {change.name: change.specs for change in found.changed} == {
        "shape": ("float32[2]", "float32[3]"),
        "cast": ("float32[3]", "float16[3]"),
    }
    text = str(found)
    assert "shape float32[2] → float32[3]: the shapes differ" in text
    assert "cast float32[3] → float16[3]: the values are equal" in text
    assert "another dtype" in text
    assert not any(layer.tensors for layer in found.layers)


def test_the_layers_that_moved_are_told_from_those_that_did_not(tmp_path: Path) -> None:
    model = LeNet(2)
    luthier.save(model, tmp_path / "a.pt")
    with torch.no_grad():
        model.fc3.weight += 1
        model.fc2.bias *= 1.0001
    luthier.save(model, tmp_path / "b.pt")
    found = luthier.diff(tmp_path / "a.pt", tmp_path / "b.pt")
    moved = [layer.name for layer in found.layers if layer.tensors]
    assert moved == ["fc3", "fc2"]
    assert "layers that moved (2 of 5)" in str(found)


def test_many_layers_are_put_together_in_the_report(tmp_path: Path) -> None:
    state = {f"stage{i}.block{j}.weight": torch.ones(2) for i in range(4) for j in range(9)}
    luthier.save(state, tmp_path / "a.pt")
    luthier.save(
        {n: t + 1 if "block8" not in n else t for n, t in state.items()}, tmp_path / "b.pt"
    )
    found = luthier.diff(tmp_path / "a.pt", tmp_path / "b.pt")
    text = str(found)
    assert "layers that moved (32 of 36)" in text
    assert "stage2: 8 of 9 tensors, by 100 %" in text
    assert "and 20 more" in text


def test_places_in_the_files_are_chosen(tmp_path: Path) -> None:
    one, two = {"w": torch.ones(2)}, {"w": torch.zeros(2)}
    torch.save({"model": one, "ema": two}, tmp_path / "a.pt")
    found = luthier.diff(tmp_path / "a.pt", tmp_path / "a.pt", where_b="ema")
    assert found.where == ("model", "ema")
    assert not found.same
    assert luthier.diff(tmp_path / "a.pt", tmp_path / "a.pt", where_a="ema", where_b="ema").same


def test_descriptions_that_differ_are_noted(tmp_path: Path) -> None:
    for name, classes in (("a", ["x", "y"]), ("b", ["x", "z"])):
        torch.manual_seed(0)
        luthier.save(LeNet(2), tmp_path / f"{name}.safetensors", classes=classes)
    found = luthier.diff(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert found.same
    assert found.notes == ("the descriptions of the models differ in: classes",)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_sparse_and_refused_tensors_are_told(tmp_path: Path) -> None:
    eye = torch.eye(3)
    quantised = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    a = saved(tmp_path / "a.pt", s=eye.to_sparse(), t=eye.to_sparse(), q=quantised)
    b = saved(tmp_path / "b.pt", s=eye.to_sparse(), t=(2 * eye).to_sparse(), q=quantised)
    found = luthier.diff(a, b)
    assert {change.name: change.why for change in found.changed}.keys() == {"t", "q"}
    assert found.equal == 1


def test_the_command_says_it_by_its_exit_status_and_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = saved(tmp_path / "a.pt", w=torch.ones(2), x=torch.ones(1))
    b = saved(tmp_path / "b.pt", w=torch.tensor([1.0, math.inf]), x=torch.ones(1))
    assert main(["diff", str(a), str(a)]) == 0
    capsys.readouterr()
    assert main(["diff", str(a), str(b), "--json"]) == 1
    found: dict[str, Any] = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found["same"] is False
    assert found["equal"] == 1
    assert found["changed"][0]["not_finite"] == 1
    assert main(["diff", str(a), str(tmp_path / "missing.pt")]) == 2

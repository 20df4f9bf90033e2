"""Foreign weights into a model: the plan is exact, and loading is all or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from luthier.adapt import load, match
from luthier.errors import DoesNotFitError
from luthier.files import tensors
from luthier.values import TensorSpec

NAMES = st.sampled_from(
    [f"{block}.{leaf}" for block in "abc" for leaf in ("weight", "bias", "num_batches_tracked")]
)
SPECS = st.builds(
    TensorSpec,
    st.sampled_from([(), (2,), (2, 3), (3, 2), (0,)]),
    st.sampled_from(["float32", "bfloat16", "int64"]),
)
STATES = st.dictionaries(NAMES, SPECS, max_size=9)


@settings(deadline=None)
@given(model=STATES, file=STATES, head=st.frozensets(NAMES, max_size=3))
def test_every_tensor_has_exactly_one_fate(
    model: dict[str, TensorSpec], file: dict[str, TensorSpec], head: frozenset[str]
) -> None:
    head &= model.keys()
    plan = match(model, file, head)
    misshapen = [name for name, _, _ in plan.misshapen]
    fates = [*plan.loaded, *plan.kept, *plan.missing, *misshapen]
    assert sorted(fates) == sorted(model)
    theirs = [*plan.loaded, *misshapen, *plan.unexpected, *plan.dropped]
    assert sorted(theirs) == sorted(file)
    for name in plan.loaded:
        assert file[name].shape == model[name].shape
    for name in misshapen:
        assert file[name].shape != model[name].shape
    for name in plan.kept:
        assert name in head or (name.endswith("num_batches_tracked") and name not in file)
    assert not any(name.endswith("num_batches_tracked") for name in plan.missing)
    assert head <= set(plan.kept)
    wanted = len(model) - len(plan.kept)
    assert 0.0 <= plan.coverage <= 1.0
    assert plan.coverage == (len(plan.loaded) / wanted if wanted else 0.0)
    assert (plan.coverage == 1.0) == bool(plan.loaded and not plan.missing and not misshapen)
    changed = {n: (file[n].dtype, model[n].dtype) for n in plan.loaded}
    assert plan.cast == tuple((n, a, b) for n, (a, b) in changed.items() if a != b)
    report = str(plan)
    assert f"{len(plan.loaded)} of {wanted} tensors loaded" in report
    assert all(name in report for name in [*plan.missing[:6], *misshapen[:6]])


@settings(deadline=None)
@given(state=STATES.filter(bool))
def test_a_model_fits_itself(state: dict[str, TensorSpec]) -> None:
    plan = match(state, state)
    assert plan.loaded == tuple(state)
    assert plan.coverage == 1.0
    assert (plan.kept, plan.missing, plan.misshapen, plan.unexpected) == ((), (), (), ())


def net(width: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 2))


def bits(model: nn.Module) -> dict[str, bytes]:
    return {
        n: t.clone().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        for n, t in model.state_dict().items()
    }


def written(path: Path, state: dict[str, torch.Tensor]) -> Path:
    tensors.write(path / "w.safetensors", state)
    return path / "w.safetensors"


def test_a_whole_file_is_loaded_to_the_bit(tmp_path: Path) -> None:
    source, model = net(), net()
    plan = load(model, written(tmp_path, source.state_dict()))
    assert plan.coverage == 1.0
    assert bits(model) == bits(source)


@pytest.mark.parametrize("breaks", ["missing", "misshapen", "nothing fits"])
def test_what_does_not_fit_changes_no_bit(tmp_path: Path, breaks: str) -> None:
    state = net().state_dict()
    if breaks == "missing":
        del state["2.weight"]
    elif breaks == "misshapen":
        state["2.weight"] = torch.ones(2, 5)
    else:
        state = {f"module.{name}": t for name, t in state.items()}
    model = net()
    before = bits(model)
    path = written(tmp_path, state)
    with pytest.raises(DoesNotFitError, match=r"w\.safetensors") as error:
        load(model, path)
    assert bits(model) == before
    assert ("0.weight" if breaks == "nothing fits" else "2.weight") in str(error.value)
    assert error.value.exit_status == 1
    if breaks == "nothing fits":
        assert "(did you mean 'module.0.weight'?)" in str(error.value)
        with pytest.raises(DoesNotFitError):
            load(model, path, coverage=1e-9)
    if breaks == "misshapen":
        assert "float32[2, 5] in the file, float32[2, 4] in the model" in str(error.value)


def test_less_coverage_is_enough_where_it_is_asked_for(tmp_path: Path) -> None:
    source, model = net(), net()
    state = source.state_dict()
    del state["2.weight"]
    before = model[2].weight.detach().clone()
    plan = load(model, written(tmp_path, state), coverage=0.8)
    assert plan.missing == ("2.weight",)
    assert plan.coverage == 8 / 9
    assert torch.equal(model[2].weight, before)
    assert torch.equal(model[0].weight, source[0].weight)


def test_the_new_head_is_kept_and_the_old_one_dropped(tmp_path: Path) -> None:
    source, model = net(), net()
    source[2] = nn.Linear(4, 1000)
    head = ("2.weight", "2.bias")
    before = {n: b for n, b in bits(model).items() if n in head}
    plan = load(model, written(tmp_path, source.state_dict()), head)
    assert set(plan.kept) == set(plan.dropped) == set(head)
    assert plan.coverage == 1.0
    assert {n: b for n, b in bits(model).items() if n in head} == before
    assert torch.equal(model[0].weight, source[0].weight)
    assert "2 new: 2.weight, 2.bias" in str(plan)


def test_a_head_that_would_fit_is_kept_all_the_same(tmp_path: Path) -> None:
    source, model = net(), net()
    before = bits(model)["2.weight"]
    load(model, written(tmp_path, source.state_dict()), ("2.weight", "2.bias"))
    assert bits(model)["2.weight"] == before


def test_counts_of_batches_may_be_lacking(tmp_path: Path) -> None:
    state = net().state_dict()
    del state["1.num_batches_tracked"]
    plan = load(net(), written(tmp_path, state))
    assert plan.coverage == 1.0
    assert plan.kept == ("1.num_batches_tracked",)


def test_another_dtype_is_cast_and_reported(tmp_path: Path) -> None:
    source, model = net(), net()
    state = {
        n: t.to(torch.bfloat16) if t.is_floating_point() else t
        for n, t in source.state_dict().items()
    }
    plan = load(model, written(tmp_path, state))
    assert ("0.weight", "bfloat16", "float32") in plan.cast
    assert "cast: 0.weight bfloat16 → float32" in str(plan)
    assert model[0].weight.dtype == torch.float32
    assert torch.equal(model[0].weight, source[0].weight.to(torch.bfloat16).float())


def test_the_report_names_the_nearest_and_counts_the_rest() -> None:
    one = TensorSpec((1,), "float32")
    model = {f"layer{i}.weight": one for i in range(9)}
    report = str(match(model, {"layer0.wieght": one, "other": one}))
    assert "not in the file: layer0.weight (did you mean 'layer0.wieght'?)" in report
    assert "and 3 more" in report
    assert "not in the model: layer0.wieght, other" in report

"""Foreign weights into a model: the plan is exact, and loading is all or nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel

from luthier.adapt import HeadFit, How, load
from luthier.adapt import match as match_file
from luthier.adapt.matching import Sides, match, plan
from luthier.errors import (
    DamagedError,
    DoesNotFitError,
    ModelError,
    RecipeError,
    UnsupportedFileError,
)
from luthier.files import tensors
from luthier.values import TensorSpec

NAMES = st.sampled_from(
    [f"{block}.{leaf}" for block in "abc" for leaf in ("weight", "bias", "num_batches_tracked")]
)
SPECS = st.builds(
    TensorSpec,
    st.sampled_from([(), (2,), (2, 3), (3, 2), (0,)]),
    st.sampled_from(["float32", "bfloat16", "int64", "complex64"]),
)
STATES = st.dictionaries(NAMES, SPECS, max_size=9)
COUNTS = "num_batches_tracked"


@settings(deadline=None)
@given(
    model=STATES,
    file=STATES,
    head=st.frozensets(NAMES, max_size=3),
    refused=st.frozensets(NAMES, max_size=2),
    order=st.booleans(),
)
def test_every_tensor_has_exactly_one_fate(
    model: dict[str, TensorSpec],
    file: dict[str, TensorSpec],
    head: frozenset[str],
    refused: frozenset[str],
    order: bool,
) -> None:
    head &= model.keys()
    fit = HeadFit(tuple(head), "replace")
    sides = Sides(model, file, fit, (), dict.fromkeys(refused & file.keys(), "is quantised"))
    found = plan(sides, How(order=order))
    misshapen = [name for name, _, _ in found.misshapen]
    unusable = [name for name, _ in found.refused]
    fates = [*found.loaded, *found.kept, *found.missing, *misshapen, *unusable]
    assert sorted(fates) == sorted(model)
    used = [source for one in found.assignments for source in one.sources]
    assert len(set(used)) == len(used)
    assert not set(used) & refused
    assert not set(used) & {*found.unexpected, *found.dropped}
    for one in found.assignments:
        (source,) = one.sources
        assert file[source].shape == model[one.target].shape
        dtypes = file[source].dtype, model[one.target].dtype
        assert one.cast == (None if dtypes[0] == dtypes[1] else dtypes)
        assert not dtypes[0].startswith("complex") or dtypes[1].startswith("complex")
        assert "float" not in dtypes[0] or dtypes[1] != "int64"
    assert head <= set(found.kept)
    assert all(name in head or name.endswith(COUNTS) for name in found.kept)
    assert not any(name.endswith(COUNTS) for name in found.missing)
    wanted = len(model) - len(found.kept)
    assert found.wanted == wanted
    assert found.coverage == (len(found.loaded) / wanted if wanted else 0.0)
    report = str(found)
    assert f"{len(found.loaded)} of {wanted} tensors loaded" in report
    assert all(name in report for name in [*found.missing[:6], *misshapen[:6], *unusable[:6]])


@settings(deadline=None)
@given(state=STATES.filter(bool))
def test_a_model_fits_itself(state: dict[str, TensorSpec]) -> None:
    found = match(state, state)
    assert found.loaded == tuple(state)
    assert all(one.sources == (one.target,) for one in found.assignments)
    assert found.coverage == 1.0
    assert not [*found.kept, *found.missing, *found.misshapen, *found.unexpected]


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
    found = load(model, written(tmp_path, source.state_dict()))
    assert found.coverage == 1.0
    assert bits(model) == bits(source)


Breaking = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
BROKEN: dict[str, tuple[Breaking, str]] = {
    "missing": (lambda s: {n: t for n, t in s.items() if n != "2.weight"}, "2.weight"),
    "misshapen": (
        lambda s: s | {"2.weight": torch.ones(2, 5)},
        r"2.weight float32[2, 5] in the file, float32[2, 4] in the model",
    ),
    "complex": (
        lambda s: s | {"2.weight": torch.ones(2, 4, dtype=torch.complex64)},
        "2.weight: complex64 has imaginary parts, and the model's is float32",
    ),
    "nothing": (lambda s: {f"x{n}": t[None] for n, t in s.items()}, "0.weight"),
}


@pytest.mark.parametrize("breaks", BROKEN)
def test_what_does_not_fit_changes_no_bit(tmp_path: Path, breaks: str) -> None:
    change, said = BROKEN[breaks]
    model = net()
    before = bits(model)
    path = written(tmp_path, change(dict(net().state_dict())))
    with pytest.raises(DoesNotFitError, match=r"w\.safetensors") as error:
        load(model, path)
    assert bits(model) == before
    assert said in str(error.value)
    assert error.value.exit_status == 1
    if breaks == "nothing":
        assert "(did you mean 'x0.weight'?)" in str(error.value)
        with pytest.raises(DoesNotFitError, match="0 of 8 tensors loaded"):
            load(model, path, coverage=1e-9)


def test_damage_that_shows_while_reading_changes_no_bit(tmp_path: Path) -> None:
    source = net()
    torch.save(source.state_dict(), tmp_path / "w.pt")
    content = bytearray((tmp_path / "w.pt").read_bytes())
    content[content.index(source[2].bias.detach().numpy().tobytes())] ^= 1  # the last tensor
    (tmp_path / "w.pt").write_bytes(content)
    model = net()
    before = bits(model)
    with pytest.raises(DamagedError):
        load(model, tmp_path / "w.pt")
    assert bits(model) == before


def test_less_coverage_is_enough_where_it_is_asked_for(tmp_path: Path) -> None:
    source, model = net(), net()
    state = source.state_dict()
    del state["2.weight"]
    before = model[2].weight.detach().clone()
    found = load(model, written(tmp_path, state), coverage=0.8)
    assert found.missing == ("2.weight",)
    assert found.coverage == 8 / 9
    assert torch.equal(model[2].weight, before)
    assert torch.equal(model[0].weight, source[0].weight)


@pytest.mark.parametrize("coverage", [0.0, -1.0, 1.5, float("nan")])
def test_a_coverage_that_is_none_is_refused(coverage: float) -> None:
    with pytest.raises(RecipeError, match="expected a number in"):
        load(net(), net().state_dict(), coverage=coverage)


# --- the head -----------------------------------------------------------------------------------

HEAD = ("2.weight", "2.bias")


@pytest.mark.parametrize("outputs", [2, 1000])
def test_the_new_head_is_kept_and_the_old_one_dropped(tmp_path: Path, outputs: int) -> None:
    source, model = net(), net()
    source[2] = nn.Linear(4, outputs)
    before = {n: b for n, b in bits(model).items() if n in HEAD}
    found = load(model, written(tmp_path, source.state_dict()), HEAD)
    assert set(found.kept) == set(found.dropped) == set(HEAD)
    assert found.coverage == 1.0
    assert {n: b for n, b in bits(model).items() if n in HEAD} == before
    assert torch.equal(model[0].weight, source[0].weight)
    assert "2 new: 2.weight, 2.bias" in str(found)


@settings(deadline=None, max_examples=30)
@given(rows=st.lists(st.none() | st.integers(0, 6), min_size=1, max_size=5))
def test_rows_of_the_head_are_taken_and_the_others_stay(rows: list[int | None]) -> None:
    source, model = net(), net()
    source[2], model[2] = nn.Linear(4, 7), nn.Linear(4, len(rows))
    before = model[2].weight.detach().clone()
    found = load(model, source.state_dict(), HeadFit(HEAD, "rows", tuple(rows), note="a and b"))
    for ours, theirs in enumerate(rows):
        expected = before[ours] if theirs is None else source[2].weight[theirs]
        assert torch.equal(model[2].weight[ours], expected)
        if theirs is not None:
            assert model[2].bias[ours] == source[2].bias[theirs]
    taken = sum(row is not None for row in rows)
    assert f"{taken} of {len(rows)} rows by class name" in str(found)
    assert "a and b" in str(found)


def test_a_row_that_the_file_lacks_is_refused() -> None:
    model = net()
    before = bits(model)
    with pytest.raises(DoesNotFitError, match=r"2\.weight float32\[2, 4\]"):
        load(model, net().state_dict(), HeadFit(HEAD, "rows", (0, 2)))
    assert bits(model) == before


# --- values -------------------------------------------------------------------------------------


def test_counts_of_batches_may_be_lacking(tmp_path: Path) -> None:
    state = net().state_dict()
    del state[f"1.{COUNTS}"]
    found = load(net(), written(tmp_path, state))
    assert found.coverage == 1.0
    assert found.kept == (f"1.{COUNTS}",)


def test_another_dtype_is_cast_and_reported(tmp_path: Path) -> None:
    source, model = net(), net()
    state = {
        n: t.to(torch.bfloat16) if t.is_floating_point() else t
        for n, t in source.state_dict().items()
    }
    found = load(model, written(tmp_path, state))
    assert ("0.weight", "bfloat16", "float32") in found.cast
    assert "cast bfloat16 → float32: 0.weight, 0.bias, 1.weight, 1.bias, 1.run" in str(found)
    assert model[0].weight.dtype == torch.float32
    assert torch.equal(model[0].weight, source[0].weight.to(torch.bfloat16).float())


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch means to give quantised tensors up
def test_a_quantised_tensor_is_named_and_nothing_is_changed(tmp_path: Path) -> None:
    state = dict(net().state_dict())
    state["2.bias"] = torch.quantize_per_tensor(state["2.bias"], 0.1, 0, torch.qint8)
    torch.save(state, tmp_path / "w.pt")
    model = net()
    before = bits(model)
    with pytest.raises(DoesNotFitError, match=r"2\.bias is quantised"):
        load(model, tmp_path / "w.pt")
    assert bits(model) == before


def test_what_is_mapped_does_not_change_when_the_model_learns(tmp_path: Path) -> None:
    path = written(tmp_path, net().state_dict())
    content, model = path.read_bytes(), net()
    load(model, path)
    with torch.no_grad():
        model[0].weight.add_(1)
    again = net()
    load(again, path)
    assert path.read_bytes() == content
    assert not torch.equal(again[0].weight, model[0].weight)


# --- models -------------------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.out = nn.Linear(3, 5, bias=False)
        self.out.weight = self.embed.weight


@pytest.mark.parametrize("kept", ["embed.weight", "out.weight"])
def test_tied_weights_are_loaded_from_either_name(kept: str) -> None:
    model, values = Tied(), torch.randn(5, 3)
    found = load(model, {kept: values})
    assert found.coverage == 1.0
    assert torch.equal(model.out.weight, values)
    assert model.out.weight is model.embed.weight
    assert "share memory with what is loaded" in str(found)


def test_tied_weights_that_differ_in_the_file_are_refused() -> None:
    model = Tied()
    before = bits(model)
    with pytest.raises(DoesNotFitError, match=r"embed\.weight and out\.weight share"):
        load(model, {"embed.weight": torch.zeros(5, 3), "out.weight": torch.ones(5, 3)})
    assert bits(model) == before


def test_a_model_without_memory_or_shape_is_refused_with_the_cure() -> None:
    with torch.device("meta"):
        empty = net()
    with pytest.raises(ModelError, match="to_empty"):
        load(empty, net().state_dict())
    assert match_file(empty, net().state_dict()).coverage == 1.0  # looking is no harm
    with pytest.raises(ModelError, match="one batch"):
        load(nn.LazyLinear(3), {"weight": torch.ones(3, 3)})


def test_an_expanded_parameter_is_refused_before_anything_is_changed() -> None:
    model = net()
    model[2].weight = nn.Parameter(torch.ones(1, 4).expand(2, 4))
    before = bits(model)
    with pytest.raises(ModelError, match=r"2\.weight is an expanded view"):
        load(model, net().state_dict())
    assert bits(model) == before


# --- places in a file ---------------------------------------------------------------------------


def place(name: str, state: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    torch.save(state, tmp_path / name)
    return tmp_path / name


def test_of_several_places_the_one_that_covers_most_is_taken(tmp_path: Path) -> None:
    right, wrong = net(), net(5)
    path = place("c.pt", {"model": wrong.state_dict(), "ema": right.state_dict()}, tmp_path)
    model = net()
    found = load(model, path)
    assert found.where == "ema"
    assert not found.others
    assert bits(model) == bits(right)


def test_where_several_fit_the_report_says_which_and_how_to_choose(tmp_path: Path) -> None:
    trained, average = net(), net()
    content = {"model": trained.state_dict(), "ema": average.state_dict(), "epoch": 3}
    path = place("c.pt", content, tmp_path)
    model = net()
    found = load(model, path)
    assert (found.where, found.others) == ("model", ("ema",))
    assert "place in the file: model; as much is covered by 'ema'" in str(found)
    assert "where=" in str(found)
    assert bits(model) == bits(trained)
    load(model, path, where="ema")
    assert bits(model) == bits(average)
    with pytest.raises(UnsupportedFileError, match="there are no weights at 'emma'"):
        load(model, path, where="emma")


def test_names_that_share_a_beginning_are_a_place_too(tmp_path: Path) -> None:
    student, teacher = net(), net()
    state = {f"student.{n}": t for n, t in student.state_dict().items()}
    state |= {f"teacher.{n}": t for n, t in teacher.state_dict().items()}
    path = place("dino.pt", {"state_dict": state}, tmp_path)
    model = net()
    with pytest.raises(DoesNotFitError, match="where="):
        load(model, path)
    for where, source in (("state_dict.teacher", teacher), ("state_dict.student.", student)):
        load(model, path, where=where)
        assert bits(model) == bits(source)


def test_a_file_without_tensors_says_so(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedFileError, match="holds no named tensors"):
        load(net(), place("c.pt", {"epoch": 3}, tmp_path))


def test_the_report_names_the_nearest_and_counts_the_rest() -> None:
    one = TensorSpec((1,), "float32")
    model = {f"layer{i}.weight": one for i in range(9)}
    report = str(match(model, {"layer0.wieght": one, "other": one}))
    assert "not in the file: layer0.weight (did you mean 'layer0.wieght'?)" in report
    assert "and 3 more" in report
    assert "not in the model: layer0.wieght, other" in report


def test_names_of_a_file_cannot_move_the_cursor_or_fill_the_screen() -> None:
    one = TensorSpec((1,), "float32")
    report = str(match({"a.weight": one, "b.bias": one}, {"\x1b[2J\n" + "x" * 100_000: one}))
    assert "\x1b" not in report
    assert len(report) < 5_000


def test_of_two_places_that_cover_all_the_one_without_more_is_taken(tmp_path: Path) -> None:
    right = net()
    larger = {**net().state_dict(), "3.weight": torch.ones(2, 2)}
    path = place("c.pt", {"model": larger, "net": right.state_dict()}, tmp_path)
    model = net()
    assert load(model, path).where == "net"
    assert bits(model) == bits(right)


# --- models and tensors that are not what they seem ----------------------------------------------


def pair() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))


def copied(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def is_unchanged(model: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_layers_of_the_model_itself_can_be_exchanged() -> None:
    model = pair()
    before, live = copied(model), model.state_dict()
    load(model, {name: live[f"{1 - int(name[0])}{name[1:]}"] for name in live})
    for name, tensor in live.items():
        assert torch.equal(tensor, before[f"{1 - int(name[0])}{name[1:]}"])


def test_parameters_that_share_memory_are_tied_though_they_are_two() -> None:
    model, other = pair(), pair()
    model[1].weight = nn.Parameter(model.state_dict()["0.weight"])
    before = copied(model)
    with pytest.raises(DoesNotFitError, match="share their memory"):
        load(model, other.state_dict())
    assert is_unchanged(model, before)


def test_tied_weights_that_are_no_numbers_are_equal_by_their_bits() -> None:
    model = pair()
    model[1].weight = model[0].weight
    state = copied(model)
    state["0.weight"][0, 0] = state["1.weight"][0, 0] = float("nan")
    assert load(model, state).coverage == 1.0


def test_a_state_dict_that_is_a_copy_of_the_model_is_refused() -> None:
    model = pair()
    model._register_state_dict_hook(lambda _m, state, *_: {n: t.clone() for n, t in state.items()})
    with pytest.raises(ModelError, match=r"0\.weight of the model's state_dict\(\) is a copy"):
        load(model, pair().state_dict())


class Stateful(nn.Linear):
    def get_extra_state(self) -> object:
        return {"steps": 3}

    def set_extra_state(self, state: object) -> None:
        raise AssertionError(state)


def test_extra_state_is_left_as_it_is_and_said() -> None:
    model, other = Stateful(2, 2), Stateful(2, 2)
    plan = load(model, other.state_dict())
    assert torch.equal(model.weight, other.weight)
    assert "left as it is: _extra_state" in str(plan)


@pytest.mark.parametrize(
    "spoiled",
    [
        lambda tensor: tensor.to("meta"),
        lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_a_tensor_without_plain_values_is_refused_before_anything_changes(
    spoiled: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    model = pair()
    before, state = copied(model), pair().state_dict()
    state["1.bias"] = spoiled(state["1.bias"])
    with pytest.raises(DoesNotFitError, match=r"cannot be used: 1\.bias"):
        load(model, state)
    assert is_unchanged(model, before)


def test_a_model_of_inference_mode_is_refused_before_anything_changes() -> None:
    model = pair()
    with torch.inference_mode():
        model[1] = nn.Linear(4, 4)
    before = copied(model)
    with pytest.raises(ModelError, match=r"1\.weight was made in inference mode"):
        load(model, pair().state_dict())
    assert is_unchanged(model, before)


@pytest.mark.parametrize(
    ("file", "error", "words"),
    [
        ({"state_dict": {}, "epoch": 3}, UnsupportedFileError, "'state_dict' of the weights"),
        ({0: torch.ones(1)}, UnsupportedFileError, "0 of the weights is a Tensor"),
        (nn.Linear(2, 2), RecipeError, r"the weights are a Linear(.|\n)*state_dict\(\)"),
        (None, RecipeError, "the weights are a NoneType"),
    ],
)
def test_what_are_no_weights_is_said(file: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        load(pair(), file)


def test_a_beginning_of_names_is_a_place_among_tensors_too() -> None:
    teacher = copied(pair())
    state = {f"student.{n}": t for n, t in copied(pair()).items()}
    state |= {f"teacher.{name}": tensor for name, tensor in teacher.items()}
    for before in ("", "module."):
        model = pair()
        load(model, {before + name: tensor for name, tensor in state.items()}, where="teacher")
        assert is_unchanged(model, teacher)
    with pytest.raises(UnsupportedFileError, match=r"begins with 'ema\.'"):
        load(model, state, where="ema")


def test_a_cast_that_makes_numbers_infinite_is_in_the_report() -> None:
    model, state = pair().half(), copied(pair())
    state["1.bias"][2] = 1e6
    assert "no longer finite in: 1.bias" in str(load(model, state))
    assert "no longer finite" not in str(load(model.float(), state))


def test_a_plain_file_loads_into_an_average() -> None:
    average, other = AveragedModel(pair()), pair()
    plan = load(average, other.state_dict())
    assert torch.equal(average.module[1].weight, other[1].weight)
    assert "counts that the file lacks, left as they are: 1" in str(plan)

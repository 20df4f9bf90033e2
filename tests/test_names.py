"""Names that differ by wrappers and prefixes are brought together; what is unsure is not."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.adapt.names import by_name, unwrapped
from luthier.values import TensorSpec

# Components that are prefixes and wrappers elsewhere are names of layers here.
COMPONENTS = ["a", "b", "conv1", "0", "1", "weight", "bias", "module", "model", "layer"]
CORES = st.dictionaries(
    st.lists(st.sampled_from(COMPONENTS), min_size=1, max_size=4).map(".".join),
    st.sampled_from([(), (1,), (2, 3), (4,)]).map(lambda shape: TensorSpec(shape, "float32")),
    min_size=1,
    max_size=8,
)
PREFIXES = ["module", "_orig_mod", "_fsdp_wrapped_module", "model", "backbone", "net", "a"]
CHAINS = st.lists(st.sampled_from(PREFIXES), max_size=4).map(
    lambda parts: "".join(f"{part}." for part in parts)
)


def one(*shape: int) -> TensorSpec:
    return TensorSpec(shape, "float32")


def found(model: dict[str, TensorSpec], file: dict[str, TensorSpec]) -> dict[str, str]:
    return {name: link.sources[0] for name, link in by_name(model, file).links.items()}


@settings(deadline=None)
@given(core=CORES, on_model=CHAINS, on_file=CHAINS)
def test_any_chain_of_prefixes_on_either_side_is_undone(
    core: dict[str, TensorSpec], on_model: str, on_file: str
) -> None:
    model = {on_model + name: spec for name, spec in core.items()}
    file = {on_file + name: spec for name, spec in core.items()}
    assert found(model, file) == {on_model + name: on_file + name for name in core}


@settings(deadline=None)
@given(core=CORES, data=st.data())
def test_wrappers_anywhere_in_a_name_are_taken_out(
    core: dict[str, TensorSpec], data: st.DataObject
) -> None:
    plain = {f"net.{name.replace('module', 'part')}": spec for name, spec in core.items()}
    wrapped = {}
    for name, spec in plain.items():
        parts = name.split(".")
        at = data.draw(st.integers(0, len(parts) - 1))
        wrapped[".".join([*parts[:at], "module", "_orig_mod", *parts[at:]])] = spec
    expected = dict(zip(plain, wrapped, strict=True))
    assert found(plain, wrapped) == expected
    assert found(wrapped, plain) == {theirs: ours for ours, theirs in expected.items()}


def test_wrappers_stay_where_two_names_would_become_one() -> None:
    names = ["module.a.weight", "a.weight", "b.bias"]
    assert unwrapped(names) == {name: name for name in names}
    assert unwrapped(["module"]) == {"module": "module"}  # a tensor's own name is no wrapper


def test_the_trunk_of_a_file_goes_into_a_bare_trunk_and_back() -> None:
    trunk = {f"layer{i}.{leaf}": one(i + 1) for i in range(4) for leaf in ("weight", "bias")}
    whole = {f"backbone.{n}": s for n, s in trunk.items()} | {"head.weight": one(9)}
    assert found(trunk, whole) == {name: f"backbone.{name}" for name in trunk}
    assert found({f"model.{n}": s for n, s in whole.items()}, trunk) == {
        f"model.backbone.{name}": name for name in trunk
    }


def test_a_head_beside_the_trunk_is_found_under_the_rest_of_the_prefix() -> None:
    trunk = {f"conv{i}.weight": one(i + 1) for i in range(4)}
    file = {f"net.trunk.{n}": s for n, s in trunk.items()} | {"net.fc.weight": one(1000, 3)}
    model = {f"trunk.{n}": s for n, s in trunk.items()} | {"fc.weight": one(2, 3)}
    assert found(model, file)["fc.weight"] == "net.fc.weight"  # of another shape, and so named


def test_two_prefixes_that_fit_equally_well_are_refused_with_the_way_out() -> None:
    core = {f"conv{i}.weight": one(i + 1) for i in range(3)}
    file = {f"{who}.{n}": s for who in ("student", "teacher") for n, s in core.items()}
    proposal = by_name(core, file)
    assert not proposal.links
    (doubt,) = proposal.doubts
    assert "student." in doubt
    assert "teacher." in doubt
    assert "where=" in doubt


def test_names_as_they_are_win_over_a_prefix_that_fits_as_well() -> None:
    core = {f"conv{i}.weight": one(i + 1) for i in range(3)}
    file = core | {f"ema.{name}": spec for name, spec in core.items()}
    assert found(core, file) == {name: name for name in core}


@pytest.mark.parametrize("layers", [1, 2])
def test_one_layer_that_looks_alike_is_no_evidence(layers: int) -> None:
    own = {f"body.{i}.{leaf}": one(7 + i) for i in range(20) for leaf in ("weight", "bias")}
    theirs = {f"enc.{i}.w": one(40 + i) for i in range(20)}
    for i in range(layers):
        own |= {f"neck.{'ab'[i]}.weight": one(5), f"neck.{'ab'[i]}.bias": one(5)}
        theirs |= {f"stem.{'cd'[i]}.weight": one(5), f"stem.{'cd'[i]}.bias": one(5)}
    assert found(own, theirs) == {}


def test_what_was_changed_is_noted() -> None:
    core = {f"conv{i}.weight": one(i + 1) for i in range(3)}
    model = {f"backbone.{name}": spec for name, spec in core.items()}
    file = {f"module.model.{name}": spec for name, spec in core.items()}
    proposal = by_name(model, file)
    assert proposal.notes == (
        "module taken out of the file's names",
        "prefix model. of the file's names replaced by backbone.: 3 tensors",
    )


def test_thousands_of_tensors_that_look_alike_are_paired_by_a_sample_of_changes() -> None:
    core = {f"layers.{i}.experts.{e}.weight": one(8, 16) for i in range(8) for e in range(128)}
    model = {f"net.trunk.{name}": spec for name, spec in core.items()}
    file = {f"model.{name}": spec for name, spec in core.items()}
    assert found(model, file) == {f"net.trunk.{name}": f"model.{name}" for name in core}


def test_a_name_of_any_depth_is_survived() -> None:
    deep = "a." * 100_000 + "weight"
    assert found({"b.weight": one(3)}, {deep: one(3)}) == {}
    assert found({deep: one(3)}, {deep: one(3)}) == {deep: deep}


def test_layers_that_are_left_over_are_not_paired_by_their_looks() -> None:
    same = {f"conv{i}.weight": one(i + 1) for i in range(4)}
    model = same | {"features.6.weight": one(9, 9), "features.6.bias": one(9)}
    file = same | {"features.10.weight": one(9, 9), "features.10.bias": one(9)}
    assert found(model, file) == {name: name for name in same}


def test_layers_that_look_alike_keep_their_own_names_where_the_file_has_more() -> None:
    leaves = [f"{layer}.{leaf}" for layer in ("conv1", "conv2") for leaf in "wb"]
    own = {f"layers.{i}.{leaf}": one(4) for i in range(2) for leaf in leaves}
    same = {f"stem.{i}.w": one(9, i) for i in range(8)}
    file = same | {name.replace("layers.0.", ""): spec for name, spec in own.items()}
    more = file | {"loss.v": one(2, 2)}  # without it all that is left is under one prefix
    for model in (same | own, {f"0.{name}": spec for name, spec in (same | own).items()}):
        pairs = found(model, more)
        for ours, theirs in pairs.items():
            assert ours.removeprefix("0.").replace("layers.0.", "") == theirs


def test_a_block_does_not_become_another_one_by_its_looks() -> None:
    block = {f"{layer}.weight": one(4, 4) for layer in ("conv1", "conv2", "fc")}
    same = {f"stem.{i}.w": one(9, i) for i in range(8)}
    model = same | {f"layers.0.{name}": spec for name, spec in block.items()}
    file = same | {f"other.layers.1.{name}": spec for name, spec in block.items()}
    assert found(model, file) == {name: name for name in same}

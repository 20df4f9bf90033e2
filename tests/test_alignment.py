"""By order and shape: accepted where exactly one way fits, refused with the reason elsewhere."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from luthier.adapt.alignment import by_order
from luthier.adapt.matching import How, match
from luthier.values import TensorSpec

Specs = dict[str, TensorSpec]


def specs(*tensors: tuple[str, tuple[int, ...]]) -> Specs:
    return {name: TensorSpec(shape, "float32") for name, shape in tensors}


def pairs(model: Specs, file: Specs, known: dict[str, str] | None = None) -> dict[str, str]:
    return {n: link.sources[0] for n, link in by_order(model, file, known or {}).links.items()}


def doubt(model: Specs, file: Specs, known: dict[str, str] | None = None) -> str:
    proposal = by_order(model, file, known or {})
    assert not proposal.links
    (said,) = proposal.doubts
    return said


KINDS = st.lists(st.tuples(st.sampled_from(["w", "b"]), st.sampled_from([(1,), (2,)])), max_size=6)


def ways(ours: list[tuple[str, tuple[int, ...]]], theirs: list[tuple[str, tuple[int, ...]]]) -> int:
    """Count every way to find the one in the other in order: what is meant, not how."""
    return sum(
        all(a == theirs[i] for a, i in zip(ours, places, strict=True))
        for places in itertools.combinations(range(len(theirs)), len(ours))
    )


@settings(deadline=None)
@given(ours=KINDS.filter(bool), theirs=KINDS)
def test_it_is_accepted_exactly_where_one_way_fits(
    ours: list[tuple[str, tuple[int, ...]]], theirs: list[tuple[str, tuple[int, ...]]]
) -> None:
    # Each tensor is a layer of its own, and their names say nothing.
    model = specs(*((f"0.{i}.{kind}", shape) for i, (kind, shape) in enumerate(ours)))
    file = specs(*((f"1.{i}.{kind}", shape) for i, (kind, shape) in enumerate(theirs)))
    found = pairs(model, file)
    assert len(found) == (len(model) if ways(ours, theirs) == 1 else 0)
    if found:
        assert list(found) == list(model)
        places = [list(file).index(source) for source in found.values()]
        assert places == sorted(places)


@settings(deadline=None)
@given(ours=KINDS.filter(bool), extra=st.integers(0, 5), data=st.data())
def test_what_is_found_is_the_truth_where_the_file_has_more(
    ours: list[tuple[str, tuple[int, ...]]], extra: int, data: st.DataObject
) -> None:
    model = specs(*((f"0.{i}.{kind}", shape) for i, (kind, shape) in enumerate(ours)))
    truth = {name: f"1.{i}.{kind}" for i, (name, (kind, _)) in enumerate(zip(model, ours))}  # noqa: B905
    file = {truth[name]: spec for name, spec in model.items()}
    items = list(file.items())
    for k in range(extra):
        at = data.draw(st.integers(0, len(items)))
        items.insert(at, (f"2.{k}.w", TensorSpec((2,), "float32")))
    found = pairs(model, dict(items))
    assume(found)
    assert found == truth or ways(ours, [(n[-1], s.shape) for n, s in items]) == 1


def test_neighbours_that_look_alike_are_told_by_their_order() -> None:
    model = specs(("a.0.weight", (4, 4)), ("a.1.weight", (4, 4)), ("a.2.weight", (4, 4)))
    file = specs(("b.5.weight", (4, 4)), ("b.6.weight", (4, 4)), ("b.7.weight", (4, 4)))
    assert list(pairs(model, file).values()) == list(file)


def test_one_block_more_in_the_file_is_ambiguous_and_says_where() -> None:
    model = specs(*((f"a.{i}.weight", (4, 4)) for i in range(3)))
    file = specs(*((f"b.{i}.weight", (4, 4)) for i in range(4)))
    said = doubt(model, file)
    assert "a.0.weight float32[4, 4] could be b.0.weight or b.1.weight" in said


def test_another_order_is_refused_and_says_where() -> None:
    model = specs(("a.weight", (1,)), ("b.weight", (2,)), ("c.weight", (3,)))
    file = specs(("x.weight", (1,)), ("z.weight", (3,)), ("y.weight", (2,)))
    assert "c.weight float32[3] has no partner in the file's order" in doubt(model, file)


def test_an_alphabetical_file_is_said_to_be_one() -> None:
    model = specs(("stem.weight", (1,)), ("body.weight", (2,)))
    file = specs(("rump.weight", (2,)), ("trunk.weight", (1,)))
    assert "the alphabet's" in doubt(model, file)


def test_neighbours_that_have_each_others_names_are_refused() -> None:
    shapes = ((4, 4),) * 3
    model = specs(*((f"attn.{n}_proj.weight", s) for n, s in zip("qkv", shapes, strict=True)))
    file = specs(
        *((f"self.{n}.weight", s) for n, s in zip(("key", "query", "value"), shapes, strict=True))
    )
    said = doubt(model, file)
    assert "by their names it is the other way round" in said
    assert "key" in said
    in_order = specs(
        *((f"self.{n}.weight", s) for n, s in zip(("query", "key", "value"), shapes, strict=True))
    )
    assert list(pairs(model, in_order).values()) == list(in_order)


def test_a_layer_is_not_taken_apart() -> None:
    model = specs(("a.weight", (2, 2)), ("a.bias", (2,)))
    file = specs(("x.weight", (2, 2)), ("y.bias", (2,)))
    assert "would be taken apart" in doubt(model, file)


def test_what_is_known_by_name_stands_and_bounds_the_rest() -> None:
    model = specs(("stem.weight", (4,)), ("a.weight", (2, 2)), ("mid.weight", (5,)),
                  ("b.weight", (2, 2)))  # fmt: skip
    file = specs(("stem.weight", (4,)), ("x.weight", (2, 2)), ("mid.weight", (5,)),
                 ("y.weight", (2, 2)), ("z.weight", (9,)))  # fmt: skip
    known = {"stem.weight": "stem.weight", "mid.weight": "mid.weight"}
    assert pairs(model, file, known) == {"a.weight": "x.weight", "b.weight": "y.weight"}
    swapped = {name: file[name] for name in ("mid.weight", "x.weight", "stem.weight", "y.weight")}
    assert "stands elsewhere in the file's order" in doubt(model, swapped, known)


@pytest.mark.parametrize("lacks", [True, False])
def test_counts_of_batches_follow_their_layers(lacks: bool) -> None:
    leaves = ("weight", "bias", "running_mean", "running_var")
    model = specs(*((f"norm.{leaf}", (3,)) for leaf in leaves), ("norm.num_batches_tracked", ()))
    file = specs(*((f"bn.{leaf}", (3,)) for leaf in leaves), ("bn.num_batches_tracked", ()))
    if lacks:
        del file["bn.num_batches_tracked"]
    found = pairs(model, file)
    assert found.get("norm.num_batches_tracked") == (None if lacks else "bn.num_batches_tracked")
    assert len(found) == len(file)


def test_it_is_only_tried_where_names_leave_something_out_and_can_be_switched_off() -> None:
    model = specs(("stem.0.weight", (4, 3)), ("body.weight", (2, 4)), ("head.weight", (7, 2)))
    file = specs(("conv.weight", (4, 3)), ("mid.weight", (2, 4)), ("fc.weight", (9, 2)))
    plan = match(model, file, head=("head.weight",))
    assert plan.coverage == 1.0
    assert plan.kept == ("head.weight",)
    assert "order and shape: 2 tensors" in str(plan)
    assert "conv.weight → stem.0.weight" in str(plan)
    assert match(model, file, ("head.weight",), How(order=False)).coverage == 0.0
    assert "order and shape" not in str(match(model, model))


def test_layers_in_the_order_of_the_alphabet_are_refused() -> None:
    numbers = range(12)
    model = specs(*((f"net.{i}.weight", (4, 4)) for i in numbers))
    file = specs(*((f"f.{i}.w_.weight", (4, 4)) for i in sorted(map(str, numbers))))
    assert "f.11.w_.weight stands before f.2.w_.weight" in doubt(model, file)


def test_layers_that_have_each_others_numbers_are_refused() -> None:
    model = specs(("a.conv1.weight", (4, 4)), ("a.conv2.weight", (4, 4)))
    file = specs(("b.conv2.weight", (4, 4)), ("b.conv1.weight", (4, 4)))
    assert doubt(model, file)
    shifted = specs(("b.conv0.weight", (4, 4)), ("b.conv1.weight", (4, 4)))
    assert list(pairs(model, shifted).values()) == list(shifted)  # counted from 0

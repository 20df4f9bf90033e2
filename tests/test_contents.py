"""Where in a file the weights are, who wrote it, and what in it a loader would have run."""

from __future__ import annotations

import argparse
import os
import pickle
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import luthier
from luthier.errors import DamagedError, UnsupportedFileError
from luthier.files.contents.candidates import (
    Candidate,
    candidates,
    contents,
    producer,
    select,
    suspicious,
)
from luthier.files.entries import Archive, Entry, Global, Record, TensorEntry
from luthier.files.mapped import Held
from luthier.files.opening import open_archive
from luthier.report import Console
from luthier.values import TensorSpec


def entry(*shape: int, dtype: str = "float32") -> TensorEntry:
    return TensorEntry(TensorSpec(shape, dtype), Held(bytearray(0)))


WEIGHTS: Mapping[str, Entry] = {"conv.weight": entry(3, 2), "conv.bias": entry(3)}
SMALL: Mapping[str, Entry] = {"fc.weight": entry(2)}
OPTIMIZER = {"state": {0: {"exp_avg": entry(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}


def archive(content: Any, **facts: Any) -> Archive:
    return Archive(Path("made-by-hand.pt"), "torch", content, **facts)


def found(content: Any) -> dict[str, list[str]]:
    return {c.where: list(c.entries) for c in candidates(archive(content))}


def module(**parameters: Entry) -> Record:
    inside = {"_parameters": parameters, "_buffers": {}, "_modules": {}, "training": True}
    return Record(Global("mypackage", "Net"), state=inside)


# --- the places, best first -------------------------------------------------------------------

NAMES = list(WEIGHTS)
PLACES: dict[str, tuple[Any, dict[str, list[str]]]] = {
    "plain": (dict(WEIGHTS), {"": NAMES}),
    "wrapped": ({"state_dict": dict(WEIGHTS), "epoch": 3}, {"state_dict": NAMES}),
    "nested": ({"ckpt": {"nets": {"model": dict(WEIGHTS)}}, "e": 1}, {"ckpt.nets.model": NAMES}),
    "averages come after": (
        {"model_ema": dict(WEIGHTS), "model": dict(WEIGHTS)},
        {"model": NAMES, "model_ema": NAMES},
    ),
    "known wrappers in their order": (
        {"zebra": dict(WEIGHTS), "model": dict(WEIGHTS), "state_dict": dict(SMALL)},
        {"state_dict": ["fc.weight"], "model": NAMES, "zebra": NAMES},
    ),
    "student before teacher": (
        {"teacher": dict(WEIGHTS), "student": dict(WEIGHTS), "dino_loss": {"center": entry(1, 2)}},
        {"student": NAMES, "dino_loss": ["center"], "teacher": NAMES},
    ),
    "two networks": (
        {"discriminator": {"weight": entry(2)}, "generator": {"weight": entry(2)}},
        {"generator": ["weight"], "discriminator": ["weight"]},
    ),
    "the larger of two unknown ones": (
        {"small": dict(SMALL), "large": dict(WEIGHTS), "n": 1},
        {"large": NAMES, "small": ["fc.weight"]},
    ),
    "nested dicts are one set of names": (
        {"params": {"Dense_0": {"kernel": entry(2)}, "Dense_1": {"kernel": entry(2)}}},
        {"params": ["Dense_0.kernel", "Dense_1.kernel"]},
    ),
    "dotted names stand for themselves": (
        {"backbone": dict(WEIGHTS), "neck": dict(SMALL)},
        {"backbone": NAMES, "neck": ["fc.weight"]},
    ),
    "a list of tensors": ([entry(2), entry(3)], {"": ["0", "1"]}),
    "a list in a dict": (
        {"shadow_params": [entry(2)], "decay": 0.9},
        {"shadow_params": ["0"]},
    ),
    "one tensor": (entry(2, 2), {"": ["tensor"]}),
    "among other things": (
        {"weight": entry(2), "bias": entry(2), "version": 2},
        {"": ["weight", "bias"]},
    ),
    "a few tensors at the top come last": (
        {"mean": entry(3), "epoch": 1, "lr": 0.1, "state_dict_ema": dict(WEIGHTS)},
        {"state_dict_ema": NAMES, "": ["mean"]},
    ),
    "a whole module": (module(w=entry(2)), {"(module)": ["w"]}),
    "a module in a dict": (
        {"model": module(w=entry(2)), "ema": module(w=entry(2)), "epoch": 1},
        {"model.(module)": ["w"], "ema.(module)": ["w"]},
    ),
    "a module in an object": (
        Record(Global("fastai.learner", "Learner"), state={"model": module(w=entry(2)), "lr": 0.1}),
        {"model.(module)": ["w"]},
    ),
    "a dict that only code could build": (
        Record(Global("easydict", "EasyDict"), pairs=[("model", dict(WEIGHTS))]),
        {"model": NAMES},
    ),
    "optimizers are no weights": (
        {"opt": OPTIMIZER, "model": dict(SMALL)},
        {"model": ["fc.weight"]},
    ),
    "nor are losses": ({"loss": entry(), "epoch": 2}, {}),
    "nor states of generators": (
        {"rng": entry(5056, dtype="uint8"), "cuda": [entry(16, dtype="uint8")], "n": 1},
        {},
    ),
    "nothing": ({}, {}),
    "no dict": (3, {}),
}


@pytest.mark.parametrize(("content", "wanted"), PLACES.values(), ids=PLACES.keys())
def test_every_place_is_found_the_best_first(content: Any, wanted: dict[str, list[str]]) -> None:
    assert list(found(content).items()) == list(wanted.items())


def test_what_is_left_out_is_named() -> None:
    (candidate,) = candidates(archive({"weight": entry(2), "version": 2, "arch": "x"}))
    assert candidate.note == "beside the tensors, and left out: version, arch"


def test_a_candidate_is_chosen_by_its_name_and_a_wrong_name_lists_them() -> None:
    several = candidates(archive({"model": module(w=entry(2)), "state_dict": dict(WEIGHTS)}))
    assert select(several, "state_dict").where == "state_dict"
    assert select(several, "model") is select(several, "model.(module)")
    with pytest.raises(UnsupportedFileError, match=r"did you mean 'state_dict'(.|\n)*'model"):
        select(several, "state_dct")
    (top,) = candidates(archive(module(w=entry(2))))
    assert select([top], "") is top


def test_keys_of_all_kinds_are_names_and_none_is_lost() -> None:
    content = {0: entry(1), "0": entry(2), (1, 2): entry(3), None: entry(4)}
    (candidate,) = candidates(archive(content))
    assert len(candidate.entries) == 4
    assert {"0", "(1, 2)", "None"} < set(candidate.entries)


TREES = st.recursive(
    st.one_of(st.builds(entry, st.integers(1, 3)), st.integers(), st.none(), st.text(max_size=3)),
    lambda below: st.one_of(
        st.lists(below, max_size=4),
        st.dictionaries(st.text("ab.", max_size=3), below, max_size=4),
        st.builds(lambda state: Record(Global("a", "B"), state=state), below),
    ),
    max_leaves=25,
)


def tensors_in(value: Any) -> list[int]:
    if isinstance(value, TensorEntry):
        return [id(value)]
    if isinstance(value, Record):
        return tensors_in(value.state) if isinstance(value.state, dict) else []
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [found for item in below for found in tensors_in(item)]


@given(TREES)
def test_every_tensor_is_in_one_candidate(content: Any) -> None:
    given_ids = [id(e) for c in candidates(archive(content)) for e in c.entries.values()]
    assert sorted(given_ids) == sorted(tensors_in(content))
    places = [c.where for c in candidates(archive(content))]
    assert len(places) == len(set(places))


# --- files that were made to harm -------------------------------------------------------------


def test_what_contains_itself_and_what_is_shared_is_looked_at_once() -> None:
    content: dict[str, Any] = {"state_dict": dict(WEIGHTS), "epoch": 1}
    content["self"] = content
    shared: Any = [dict(SMALL), 1]
    for _ in range(60):  # 2 to the 60th places
        shared = [shared, shared]
    content["shared"] = shared
    places = found(content)
    assert len(places) == 2
    assert places["state_dict"] == NAMES


def test_nesting_has_a_limit_and_needs_no_recursion() -> None:
    content: Any = dict(WEIGHTS)
    for _ in range(900):
        content = {"a": content}
    assert len(found(content)) == 1
    for _ in range(200):
        content = {"a": content}
    with pytest.raises(DamagedError, match="nested deeper"):
        candidates(archive(content))


def test_long_keys_above_many_tensors_are_over_the_limit() -> None:
    content = {"a" * 1_000_000: {"x": {str(i): entry(1) for i in range(50)}, "y": {"w": entry(1)}}}
    with pytest.raises(DamagedError, match="memory"):
        candidates(archive({"z": {"w": entry(1)}, **content}))


def test_a_data_set_of_many_small_places_is_counted_and_not_listed() -> None:
    content = [{"image": entry(3, 2), "label": i, "name": str(i)} for i in range(500)]
    everything = contents(archive(content))
    assert len(everything.candidates) + everything.unlisted == 500
    assert len(everything.candidates) == 100


# --- who wrote it -----------------------------------------------------------------------------


def saved(content: Any, folder: Path) -> Archive:
    torch.save(content, folder / "file.pt")
    return open_archive(folder / "file.pt")


LINEAR = nn.Linear(2, 2).state_dict()  # an OrderedDict with an attribute, _metadata
WRITTEN: dict[str, tuple[Any, str | None]] = {
    "Lightning": (
        {"pytorch-lightning_version": "2.6.0", "state_dict": LINEAR, "loops": {}},
        "Lightning 2.6.0",
    ),
    "timm": (
        {"arch": "a", "state_dict": LINEAR, "epoch": 1, "version": 2, "args": argparse.Namespace()},
        "timm",
    ),
    "fastai": ({"model": LINEAR, "opt": {"state": [], "hypers": []}}, "fastai"),
    "MMEngine": ({"meta": {"mmengine_version": "0.10.1"}, "state_dict": LINEAR}, "MMEngine 0.10.1"),
    "torchvision's module": ({"net": nn.Linear(1, 1)}, None),
    "plain": (LINEAR, None),
}


@pytest.mark.parametrize(("content", "wanted"), WRITTEN.values(), ids=WRITTEN.keys())
def test_the_program_that_wrote_a_file(content: Any, wanted: str | None, tmp_path: Path) -> None:
    assert producer(saved(content, tmp_path)) == wanted


def test_a_checkpoint_of_luthier_has_its_parts_and_its_optimizer_apart(tmp_path: Path) -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.Adam(model.parameters())
    quiet = Console(quiet=True)
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer}
    with luthier.Run(tmp_path / "run", save_every="1 steps", console=quiet, **parts) as run:
        for _step in run.steps(1):
            model(torch.randn(3, 4)).sum().backward()
            optimizer.step()
    opened = open_archive(tmp_path / "run" / "checkpoints" / "step-00000001")
    everything = contents(opened)
    assert [(c.where, set(c.entries)) for c in everything.candidates] == [
        ("model", {"weight", "bias"})
    ]
    assert [where for where, _ in everything.optimizers] == ["optimizer"]
    assert producer(opened) == f"luthier {luthier.__version__}"


# --- what a loader would have run -------------------------------------------------------------


class Runs:
    """Pickles as a call; nothing ever calls it here."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "it-ran"


def test_calls_are_shown_with_their_arguments_and_are_not_made(
    marker: Path, tmp_path: Path
) -> None:
    command = f"touch {marker}"
    opened = saved({"state_dict": LINEAR, "x": Runs(os.system, command)}, tmp_path)
    (said,) = suspicious(opened)
    assert said.startswith(f"would have run {os.system.__module__}.system('{command[:30]}")
    assert [c.where for c in candidates(opened)] == ["state_dict"]
    assert not marker.exists()


def test_arguments_are_printed_safely_and_shortened(tmp_path: Path) -> None:
    evil = "\x1b[2J\u202e\r\n" + "x" * 10_000
    (said,) = suspicious(saved([Runs(exec, evil)], tmp_path))
    assert said.isprintable()
    assert len(said) < 250
    assert r"\x1b[2J\u202e\r\n" in said


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (eval, ("1",)),
        (getattr, (1, "real")),
        (__import__, ("os",)),
        (open, ("/dev/null",)),
        (os.listdir, ("/",)),
        (torch.load, ("x",)),
        (pickle.loads, (b"",)),
    ],
)
def test_what_reaches_beyond_the_loader_is_known(
    function: Any, arguments: tuple[Any, ...], tmp_path: Path
) -> None:
    (said,) = suspicious(saved({"a": Runs(function, *arguments)}, tmp_path))
    assert said.startswith("would have run ")
    assert function.__name__ in said


def test_a_call_whose_result_is_thrown_away_is_still_told(tmp_path: Path) -> None:
    # (os.system, ("true",)) REDUCE, POP, then an empty dict.
    content = b"\x80\x02cposix\nsystem\n(X\x04\x00\x00\x00truetR0}."
    (tmp_path / "popped.pkl").write_bytes(content)
    (said,) = suspicious(open_archive(tmp_path / "popped.pkl"))
    assert said.startswith("would have run posix.system")


def test_a_reference_that_is_not_called_is_told_as_such() -> None:
    opened = archive({"f": Global("os", "system")}, globals=((Global("os", "system"), False),))
    assert suspicious(opened) == ("refers to os.system",)


def test_attributes_walked_through_a_harmless_module_are_dangerous() -> None:
    through = Global("pathlib", "os.system")
    assert suspicious(archive({}, globals=((through, True),))) == (
        "would have run pathlib.os.system",
    )


def test_classes_of_others_are_named_and_those_of_torch_and_numpy_are_not(tmp_path: Path) -> None:
    package = types.ModuleType("mypackage")
    sys.modules["mypackage"] = package
    try:
        package.Net = type("Net", (nn.Linear,), {"__module__": "mypackage"})  # type: ignore[attr-defined]
        content = {"model": package.Net(2, 2), "n": np.zeros(2), "p": Path("x"), "l": nn.ReLU()}
        opened = saved(content, tmp_path)
    finally:
        del sys.modules["mypackage"]
    assert suspicious(opened) == (
        "code by name that a pickle loader would have imported: mypackage.Net",
    )


def test_a_graph_module_carries_source_that_would_have_been_compiled(tmp_path: Path) -> None:
    traced = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2)))
    assert any("compiled Python source" in said for said in suspicious(saved(traced, tmp_path)))


def test_an_ordinary_checkpoint_is_not_suspicious(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    content = {"model": model, "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state()}
    opened = saved(content, tmp_path)
    assert suspicious(opened) == ()
    assert [c.where for c in candidates(opened)] == ["model.(module)"]


def test_a_candidate_is_a_frozen_value() -> None:
    with pytest.raises(AttributeError):
        Candidate("", {}).where = "x"  # type: ignore[misc]

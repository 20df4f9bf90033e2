"""No check of the catalogue fails of itself, whatever a message, its calls or its variables are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.explanations import Case, Frame, ModuleFacts, ObjectFacts, errors_in
from luthier.explanations import TensorFacts as Tensor
from luthier.explanations.catalogue import entries, explained
from luthier.language import LANGUAGES, Language

FILES = sorted((Path(__file__).parent / "recorded").glob("*.json"))
PRINTED = [
    told["stderr"]
    for path in FILES
    for told in json.loads(path.read_text(encoding="utf-8"))["errors"].values()
]
ERRORS = [error for text in PRINTED for error in errors_in(text)]
VALUES = [
    Tensor((), "int64", "cpu", low=3, high=3),
    Tensor((4, 3), "float32", "cuda:0", requires_grad=True, is_leaf=False, is_finite=False),
    Tensor((0,), "uint8", "meta"),
    ModuleFacts("Net"),
    ModuleFacts("Linear", "fc", True, {"weight": Tensor((3, 4), "float32", "cpu", True)}),
    ObjectFacts("SGD", {"rates": (), "initial_rates": (), "tensors": 0, "states": 0}),
    ObjectFacts("DataLoader", {}),
    "text",
    3,
    None,
]
NAMES = ["self", "input", "model", "target", "loss", "optimizer", "f", "batch", "state", "x"]
PIECES = ["'", '"', "[]", "[1, 2]", "(", "\n", "\\x", "%", "{", "9" * 30, "-1", "cuda:0", "é", " "]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Return a real error whose message, calls and variables are no longer whole."""
    error = draw(st.sampled_from(ERRORS))
    message = error.message
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(message)))
        cut = draw(st.integers(0, 12))
        message = message[:at] + draw(st.sampled_from(["", *PIECES])) + message[at + cut :]
    frames = draw(
        st.sampled_from(
            [error.frames, error.frames[:1], error.frames[-1:], (), (Frame("", 0, ""),)]
        )
    )
    scopes = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(VALUES), max_size=4)
    live = tuple(draw(scopes) for _ in frames) if draw(st.booleans()) else ()
    raised = replace(
        error, message=message, frames=frames, before=draw(st.sampled_from(["", message]))
    )
    return Case(raised, live=live)


@settings(max_examples=1000, deadline=None)
@given(cases(), st.sampled_from(LANGUAGES))
def test_no_check_fails_of_itself(case: Case, language: Language) -> None:
    for entry in entries():
        explained(entry, case, language)

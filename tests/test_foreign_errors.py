"""The corpus of foreign errors is what it says: real, of the types named, and large enough."""

from __future__ import annotations

import pytest

import luthier
from foreign_errors import FOREIGN, Foreign, tracebacks
from luthier.explanations import errors_in

AREAS = sorted({foreign.area for foreign in FOREIGN} - {"texts"})
# Python prints no traceback of the one, and the other holds several.
# What the catalogue knows all the same; each explanation was read, and is the cause.
RIGHTLY = {
    "numpy_huge": "host-out-of-memory",
    "safetensors_not_tensors": "no-tensors-in-safetensors",
    "multinomial_negative": "probabilities-not-valid",
    "near_module_call": "forward-missing",
    "module_attribute": "layer-not-there",
    "parameter_list_key": "layer-not-there",
    "near_one_hot_classes": "one-hot-classes",
    "from_numpy_type": "array-of-another-type",
}
NOT_READ = {"SystemExit", "ExceptionGroup"}


@pytest.mark.parametrize("area", AREAS)
def test_each_snippet_raises_the_error_that_is_named_beside_it(area: str) -> None:
    wrong = []
    for foreign in FOREIGN:
        if foreign.area == area:
            try:
                text = foreign.text()
            except AssertionError as error:
                wrong.append(str(error))
                continue
            read = [error.name for error in errors_in(text)[:1]]
            if read != [foreign.raises] and foreign.raises not in NOT_READ:
                wrong.append(f"{foreign.name} is read as {read}:\n{text}")
    assert wrong == []


@pytest.mark.parametrize("source", ["", "raise KeyError"])
def test_a_snippet_that_went_another_way_is_told(source: str) -> None:
    with pytest.raises(AssertionError, match="stale raised"):
        Foreign("language", "stale", "ValueError", source).text()


def test_a_traceback_is_what_a_terminal_shows() -> None:
    said = Foreign("language", "one", "KeyError", 'print("epoch 1")\n{}["a"]\n').text()

    assert said == (
        "epoch 1\n"
        "Traceback (most recent call last):\n"
        '  File "train.py", line 2, in <module>\n'
        '    {}["a"]\n'
        "    ~~^^^^^\n"
        "KeyError: 'a'\n"
    )


def test_at_most_one_in_a_hundred_is_taken_for_another() -> None:
    printed = {name: luthier.explain(text) for name, text in tracebacks()}
    alive = {one.name: one.while_it_lives(luthier.explain) for one in FOREIGN}
    for explained in (printed, alive):
        told = {name: found.name for name, found in explained.items() if found is not None}
        wrong = {name: entry for name, entry in told.items() if RIGHTLY.get(name) != entry}

        assert len(wrong) <= len(explained) / 100, wrong
        assert len(told) - len(wrong) == len(RIGHTLY)


def test_there_are_enough_and_a_third_are_near_misses() -> None:
    names = [foreign.name for foreign in FOREIGN]
    near = [name for name in names if name.startswith("near_")]
    texts = [foreign for foreign in FOREIGN if not foreign.raises]

    assert len(names) == len(set(names)) >= 320
    assert 3 * len(near) >= len(names)
    assert len(texts) <= 60

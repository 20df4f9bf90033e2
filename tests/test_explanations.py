"""Each error of the catalogue is raised for real, and explained: its text, and while it lives."""

from __future__ import annotations

import ast
import importlib
import json
import os
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
import write_errors

import luthier
from known_errors import Raises
from luthier.explanations import Explanation, errors_in
from luthier.explanations.catalogue import AREAS, Entry, entries, labels
from luthier.language import LANGUAGES, Language, places

RECORDED = sorted((Path(__file__).parent / "recorded").glob("*.json"))
MODULES = {area: importlib.import_module(f"known_errors.{area}") for area in AREAS}
KNOWN = [
    pytest.param(name, raises, id=f"{name}-{raises.__name__}")
    for module in MODULES.values()
    for name, several in module.KNOWN.items()
    for raises in several
]


def recorded() -> Iterator[object]:
    for area in MODULES.values():
        for name, errors in area.RECORDED.items():
            for path in RECORDED:
                told = json.loads(path.read_text(encoding="utf-8"))["errors"]
                for error in sorted(set(errors) & told.keys()):
                    yield pytest.param(name, told[error]["stderr"], id=f"{path.stem}-{error}")


def is_whole(found: Explanation | None, name: str) -> None:
    assert found is not None
    assert found.name == name
    assert found.cause
    assert found.checked
    assert found.cure
    python = [line for line in found.code.splitlines() if not line.startswith("$ ")]
    ast.parse("\n".join(python))


@pytest.mark.filterwarnings("ignore")  # of torch's, on the way to the error
@pytest.mark.parametrize(("name", "raises"), KNOWN)
def test_a_real_error_is_explained(
    name: str, raises: Raises, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - the catalogue says which
        raises(tmp_path)
    text = "".join(traceback.format_exception(caught.value))
    for lang in LANGUAGES:
        is_whole(luthier.explain(text, lang=lang), name)
        is_whole(luthier.explain(caught.value, lang=lang), name)


@pytest.mark.parametrize(("name", "text"), list(recorded()))
def test_a_recorded_error_is_explained(name: str, text: str) -> None:
    for lang in LANGUAGES:
        is_whole(luthier.explain(text, lang=lang), name)


def test_every_entry_is_raised_or_recorded() -> None:
    shown = {name for m in MODULES.values() for name in (*m.KNOWN, *m.RECORDED)}
    assert shown == {entry.name for entry in entries()}
    told = {name for path in RECORDED for name in json.loads(path.read_text("utf-8"))["errors"]}
    assert {error for m in MODULES.values() for e in m.RECORDED.values() for error in e} <= told


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
def test_every_language_says_the_same(entry: Entry) -> None:
    said = [
        [[places(s) for s in part] for part in (words.cause, words.checked, words.cure)]
        for words in entry.words.values()
    ]
    assert all(other == said[0] for other in said)


@pytest.mark.parametrize("lang", write_errors.PAGES)
def test_the_documentation_is_the_catalogues(lang: Language) -> None:
    page = write_errors.ROOT / "docs" / write_errors.PAGES[lang]
    assert page.read_text(encoding="utf-8") == write_errors.page(lang)
    for entry in entries():
        assert f"\n### {entry.name}\n" in page.read_text(encoding="utf-8")


def test_the_words_around_are_whole_in_every_language() -> None:
    said = [labels(lang) for lang in LANGUAGES]
    assert len({tuple(words) for words in said}) == 1
    for name in said[0]:
        assert len({frozenset(places(words[name])) for words in said}) == 1


def test_an_error_is_known_by_its_calls_or_by_its_words_alone() -> None:
    raised = "RuntimeError: element 0 of tensors does not require grad and does not have a grad_fn"
    alone = luthier.explain(raised, lang="en")
    assert alone is not None
    assert alone.checked == ("known by its words alone: no line of code came with it",)


def test_names_are_the_entries_own() -> None:
    names = [entry.name for entry in entries()]
    assert len(names) == len(set(names))


def test_an_unknown_error_is_not_explained() -> None:
    text = 'Traceback (most recent call last):\n  File "a.py", line 1, in <module>\nKeyError: 3\n'
    assert errors_in(text)
    assert luthier.explain(text) is None
    assert luthier.explain("") is None
    assert luthier.explain(KeyError(3)) is None


def test_the_languages_variable_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "LUTHIER_LANG", "zh")
    (known, *_) = KNOWN
    with pytest.raises(RuntimeError) as caught:
        known.values[1](Path())
    assert str(luthier.explain(caught.value)).startswith("原因  ")

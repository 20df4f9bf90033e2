"""The model card: front matter as the hub reads it, and names that stay names."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from luthier.report import Card, render_card
from luthier.values import Preprocessing, Proportion, Score

CARD = Card(
    path="ants.onnx",
    format="onnx",
    input="float32 [batch, 3, 224, 224]",
    batch="pixels",
    architecture="torchvision/mobilenet_v2",
    classes=("ants", "bees"),
    preprocessing=Preprocessing(256, 224, "bilinear", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)),
    data="hymenoptera",
    counts={"train": {"ants": 124, "bees": 121}, "val": {"ants": 70, "bees": 83}},
    recipe={"strategy": "frozen", "epochs": 10},
    validation=Score(3, 0.1, Proportion(147, 153)),
    start={"source": "weights.pth", "sha256": "ab" * 32},
    checks=("same pixels: probabilities within 1e-6",),
)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


def test_the_hub_reads_the_front_matter() -> None:
    card = ModelCard(render_card(CARD), ignore_metadata_errors=False)
    told = card.data.to_dict()
    assert told["pipeline_tag"] == "image-classification"
    assert told["library_name"] == "onnx"
    assert told["license"] == "unknown"
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", 0.960784)
    assert (result.dataset_name, result.task_type) == ("hymenoptera", "image-classification")


def test_what_a_reader_must_know_is_in_it() -> None:
    text = render_card(CARD)
    assert "96.08 % (147 of 153 images, 95 % interval 91.7 to 98.2 %)" in text
    assert "| ants | 124 | 70 |" in text
    assert "| all | 245 | 153 |" in text
    assert f"SHA-256 `{'ab' * 32}`" in text
    assert "| epochs | 10 |" in text
    assert "resized to 256 pixels (bilinear, antialiased)" in text
    assert text.count("**TO FILL:**") == 5


def test_what_is_not_known_is_to_be_filled_in() -> None:
    bare = replace(CARD, data="", counts={}, recipe={}, validation=None, start={}, checks=())
    text = render_card(bare)
    assert text.count("**TO FILL:**") == 7
    assert "Classes, in index order: ants, bees." in text
    assert ModelCard(text).data.eval_results is None


@pytest.mark.parametrize("form", ["onnx", "pt2", "safetensors", "pt", "timm", "hf"])
def test_the_lines_of_use_are_python(form: str) -> None:
    text = render_card(replace(CARD, format=form, path='a"b\n.onnx'))
    code = text.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    assert len(code.splitlines()) <= 3


@settings(deadline=None)
@given(name=NAMES)
def test_no_name_changes_the_front_matter(name: str) -> None:
    told = ModelCard(render_card(replace(CARD, path=name, data=name, architecture=name))).data
    assert told.model_name == name
    assert told.eval_results[0].dataset_name == name
    assert told.tags[1] == name


@settings(deadline=None)
@given(name=NAMES)
@example(name="<b>x</b>")
@example(name="a | b")
@example(name="*a* [b](http://c) ![d](e) `f`")
@example(name="\n\n# a")
def test_no_name_changes_the_text(name: str) -> None:
    counts = {"train": {name: 3}, "val": {name: 4}}
    text = render_card(
        replace(CARD, classes=(name,), counts=counts, data=name, recipe={name: name})
    )
    tokens = MarkdownIt("commonmark").enable("table").parse(text.split("---\n\n", 1)[1])
    assert sum(t.type == "tr_open" for t in tokens) == 3 + 2  # one class and all, one setting
    kinds = {child.type for token in tokens for child in token.children or ()}
    assert kinds <= {"text", "text_special", "code_inline", "strong_open", "strong_close"}
    assert sum(t.type == "heading_open" for t in tokens) == 7


def test_half_of_a_character_is_written_too() -> None:
    text = render_card(replace(CARD, data="a\udcff", classes=("a\udcff", "b")))
    text.encode()
    json.dumps(ModelCard(text).data.to_dict())

"""A model card: Markdown, with front matter as the Hugging Face hub reads it. Pure; no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from luthier.values import Preprocessing, Score

TO_FILL = "**TO FILL:**"
_LIBRARIES = {"timm": "timm", "hf": "transformers", "onnx": "onnx", "pt2": "pytorch"}
_MARKS = re.compile(r"[\\`*_{}\[\]<>#|&~!$@]|:(?=//)")  # what Markdown or HTML could take for more
_MOST_CLASSES = 100  # that are listed with their numbers
_USES = {
    "timm": (
        'model = timm.create_model("local-dir:{path}", pretrained=True).eval()',
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))",
        'scores = model(transform(PIL.Image.open("photo.jpg").convert("RGB"))[None])',
    ),
    "hf": (
        'classify = transformers.pipeline("image-classification", model="{path}")',
        'print(classify("photo.jpg"))',
    ),
    "onnx": (
        'session = onnxruntime.InferenceSession("{path}")',
        "logits = session.run(None, {{session.get_inputs()[0].name: {batch}}})[0]",
        'classes = json.loads(session.get_modelmeta().custom_metadata_map["luthier"])["classes"]',
    ),
    "pt2": (
        'about = {{"luthier": ""}}',
        'model = torch.export.load("{path}", extra_files=about).module()',
        'logits, classes = model({batch}), json.loads(about["luthier"])["classes"]',
    ),
    "safetensors": (
        'model, about = luthier.load_model("{path}"), luthier.describe("{path}")',
        "scores = model({batch}).softmax(1)",
        "print(about.classes[scores[0].argmax()])",
    ),
    "pt": (
        'model.load_state_dict(torch.load("{path}", weights_only=True))',
        "scores = model.eval()({batch}).softmax(1)",
    ),
}


@dataclass(frozen=True)
class Card:
    """What a card says. What is not known is left out.

    Attributes:
        path: name of the file or folder that it describes.
        format: of the export: "onnx", "timm", …
        input: what the export is given, in words.
        batch: name of a variable that holds that.
        architecture: of the model.
        classes: names in index order.
        preprocessing: what happens to a photo.
        data: name of the data.
        counts: images by side ("train", "val") and class.
        recipe: how it was trained, by field.
        validation: the score of these weights.
        start: source and SHA-256 of the weights that it started from.
        checks: how it was compared with the model, a sentence each.
        writer: the program that wrote the card.
    """

    path: str
    format: str
    input: str
    batch: str
    architecture: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    data: str = ""
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    validation: Score | None = None
    start: Mapping[str, Any] = field(default_factory=dict)
    checks: tuple[str, ...] = ()
    writer: str = "luthier"


def render_card(card: Card) -> str:
    """Return the text of a card."""
    sections = (
        ["---", *_front_matter(card), "---"],
        [f"# {_text(card.path)}", "", _summary(card)],
        ["## Use", "", *_use(card)],
        ["## Data", "", *_data(card)],
        ["## Training", "", *_training(card)],
        ["## Validation", "", *_validation(card)],
        ["## Preprocessing", "", _preprocessing(card.preprocessing)],
        ["## Limitations and licence", "", *_to_fill(card)],
    )
    return "\n\n".join("\n".join(lines) for lines in sections) + "\n"


# --- the front matter ---------------------------------------------------------------------------


def _front_matter(card: Card) -> Iterator[str]:
    yield "license: unknown  # TO FILL: an identifier of the hub, such as apache-2.0"
    yield f"library_name: {_LIBRARIES.get(card.format, 'luthier')}"
    yield "pipeline_tag: image-classification"
    yield from ("tags:", "- image-classification", f"- {_quoted(card.architecture)}")
    yield from ("metrics:", "- accuracy")
    if card.validation is None:
        return
    name, data = _quoted(card.path), _quoted(card.data or "unknown")
    yield from (
        "model-index:",
        f"- name: {name}",
        "  results:",
        "  - task:",
        "      type: image-classification",
        "    dataset:",
        f"      name: {data}",
        f"      type: {data}",
        "      split: validation",
        "    metrics:",
        "    - type: accuracy",
        f"      value: {card.validation.accuracy.value:.6f}",
    )


def _quoted(text: str) -> str:
    """Return a text as a double-quoted scalar of YAML, in which no mark has a meaning."""
    return '"' + "".join(map(_in_quotes, text)) + '"'


def _in_quotes(mark: str) -> str:
    if mark in '"\\':
        return f"\\{mark}"
    if 0xD800 <= ord(mark) < 0xE000:  # half of a pair, of a name that is no Unicode
        return f"\\\\u{ord(mark):04x}"
    return mark if mark.isprintable() else f"\\U{ord(mark):08x}"


# --- the text -----------------------------------------------------------------------------------


def _text(text: Any) -> str:
    """Return any text as Markdown in which no mark of it has a meaning, on one line."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))
    return _MARKS.sub(r"\\\g<0>", shown)


def _summary(card: Card) -> str:
    data = f", trained on {_text(card.data)}" if card.data else ""
    return (
        f"An image classifier of {len(card.classes)} classes{data}."
        f" Architecture: {_text(card.architecture)}."
    )


def _use(card: Card) -> Iterator[str]:
    path = re.sub(r"[^\w.-]", "_", card.path, flags=re.ASCII)
    yield f"It is given {card.input} and returns one score a class, before the softmax."
    yield ""
    yield "```python"
    yield from (line.format(path=path, batch=card.batch) for line in _USES[card.format])
    yield "```"
    for line in card.checks:
        yield ""
        yield f"Checked after it was written: {_text(line)}."


def _data(card: Card) -> Iterator[str]:
    sides = [side for side in ("train", "val") if side in card.counts]
    if not sides:
        yield f"{TO_FILL} what the model was trained on."
        yield ""
        yield f"Classes, in index order: {_listed(card.classes)}."
        return
    yield from _row(["class", *({"train": "training", "val": "validation"}[s] for s in sides)])
    yield from _row(["---", *("---:" for _ in sides)])
    for name in card.classes[:_MOST_CLASSES]:
        numbers = (card.counts[side].get(name, 0) for side in sides)
        yield from _row([_text(name), *map(str, numbers)])
    sums = (sum(card.counts[side].values()) for side in sides)
    more = len(card.classes) - _MOST_CLASSES
    yield from _row([f"all, with {more} more classes" if more > 0 else "all", *map(str, sums)])
    yield ""
    yield f"{TO_FILL} where the images are from, who took them, and what they do not show."


def _row(cells: Iterable[str]) -> tuple[str]:
    return (f"| {' | '.join(cells)} |",)


def _listed(names: tuple[str, ...]) -> str:
    more = len(names) - _MOST_CLASSES
    shown = ", ".join(map(_text, names[:_MOST_CLASSES]))
    return f"{shown} and {more} more" if more > 0 else shown


def _training(card: Card) -> Iterator[str]:
    source, digest = card.start.get("source"), card.start.get("sha256")
    if source:
        told = f" (SHA-256 `{digest}`)" if _is_digest(digest) else ""
        yield f"It started from {_text(source)}{told}."
        yield ""
    if not card.recipe:
        yield f"{TO_FILL} how it was trained."
        return
    yield from _row(["setting", "value"])
    yield from _row(["---", "---"])
    for name, value in card.recipe.items():
        yield from _row([_text(name), _text(value)])


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _validation(card: Card) -> Iterator[str]:
    if card.validation is None:
        yield f"{TO_FILL} how good it is, and on which images."
        return
    yield f"Accuracy {_text(card.validation.accuracy)}, loss {card.validation.loss:.4f}."
    yield ""
    yield (
        "The epoch was chosen by this very score, so on new images of the same kind it will be a"
        " little lower."
    )


def _preprocessing(how: Preprocessing) -> str:
    return (
        f"RGB; the shorter edge resized to {how.resize} pixels ({how.interpolation}, antialiased);"
        f" the {how.image_size} x {how.image_size} square from the centre; values in [0, 1], minus"
        f" {list(how.mean)}, divided by {list(how.std)}."
    )


def _to_fill(card: Card) -> Iterator[str]:
    yield (
        "The model always names one of its classes, of an image of anything else too. It has seen"
        " nothing but images like those it was trained on."
    )
    for what in (
        "what it is for, and what it must not be used for.",
        "for whom or for what it is known to be wrong more often.",
        "the licence of the weights, which depends on those of the images and of the weights that"
        " it started from.",
        "whom to write to.",
    ):
        yield ""
        yield f"{TO_FILL} {what}"
    yield ""
    yield f"This card was written by {_text(card.writer)}; what it marks is yours to say."

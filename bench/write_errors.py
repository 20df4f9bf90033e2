"""Write ``docs/errors.md`` and ``docs/errors.zh.md`` from the catalogue of ``luthier explain``.

python bench/write_errors.py [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from luthier.explanations.catalogue import Entry, entries, labels
from luthier.language import Language, places

ROOT = Path(__file__).resolve().parents[1]
PAGES: dict[Language, str] = {"en": "errors.md", "zh": "errors.zh.md"}
HEADS: dict[Language, str] = {
    "en": """# Errors, their causes and their cures

Written by `python bench/write_errors.py` from the catalogue; do not edit. [中文](errors.zh.md)

What `luthier explain` knows. It recognises an error by its class, its message and the calls that
led to it, and says more than stands here: names, shapes, devices and lines of your own program take
the places in *slanted* letters. What it does not know it says nothing about. See
[explain.md](explain.md).
""",
    "zh": """# 错误、原因与办法

由 `python bench/write_errors.py` 根据目录生成，请勿手工修改。[English](errors.md)

这里是 `luthier explain` 认识的错误。它按异常类型、消息和调用过程来识别，给出的内容比这里更具体：
*斜体*处会换成你程序里的名字、形状、设备和代码行。不认识的错误，它什么也不说。
详见 [explain.md](explain.md)。
""",
}  # fmt: skip
AREAS: dict[Language, dict[str, str]] = {
    "en": {
        "loading": "Saving and loading",
        "devices": "Devices, memory and versions",
        "data": "Data sets, loaders and images",
        "tensors": "Shapes, dtypes and losses",
        "training": "Autograd, optimizers, schedules and several processes",
    },
    "zh": {
        "loading": "保存与加载",
        "devices": "设备、显存与版本",
        "data": "数据集、DataLoader 与图片",
        "tensors": "形状、dtype 与损失函数",
        "training": "自动求导、优化器、学习率调度与多进程",
    },
}


_MOST = 3  # messages of an entry that are shown


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "docs")
    folder = parser.parse_args().folder
    for language, name in PAGES.items():
        (folder / name).write_text(page(language), encoding="utf-8")


def page(language: Language) -> str:
    """Return a page in a language."""
    parts = [HEADS[language]]
    for area, title in AREAS[language].items():
        own = [entry for entry in entries() if entry.area == area]
        parts.append(f"## {title}\n\n" + " · ".join(f"[{e.name}](#{e.name})" for e in own) + "\n")
        parts += ["\n".join(section(entry, language)) for entry in own]
    return "\n".join(parts)


def section(entry: Entry, language: Language) -> Iterator[str]:
    """Yield the lines of an entry."""
    words, around = entry.words[language], labels(language)
    yield f"### {entry.name}\n"
    kinds = ", ".join(sorted(entry.raises))
    says = [f"`{said}`" for said in readable(entry.message.pattern)[:_MOST] if said]
    yield " · ".join([f"`{kinds}`", *says]) + "\n"
    yield told(around["cause"], words.cause)
    yield told(around["cure"], words.cure)
    if entry.code:
        code = entry.code[-1].strip("\n")
        kind = "sh" if all(line.startswith("$ ") for line in code.splitlines()) else "python"
        yield f"```{kind}\n{code.format_map({place: place for place in places(code)})}\n```\n"


def told(label: str, sentences: tuple[str, ...]) -> str:
    """Return a sentence, or a list of those of which the facts choose one."""
    if len(sentences) == 1:
        return f"**{label}** {slanted(sentences[0])}\n"
    return "\n".join([f"**{label}**\n", *(f"- {slanted(s)}" for s in sentences), ""])


def slanted(sentence: str) -> str:
    """Return a sentence with the names of its facts where they are filled in."""
    return sentence.format_map({place: f"*{place}*" for place in places(sentence)})


def readable(pattern: str) -> list[str]:
    """Return what a regular expression finds, as one reads it: without groups and escapes."""
    text = re.sub(r"\\[AZb]|\(\?s\)|\(\?[=!](?:[^()\\]|\\.)*\)", "", pattern)
    before = ""
    while before != text:
        before = text
        text = re.sub(r"\((?:\?P<\w+>|\?:)?(?:[^()\\|]|\\.)*\)[?*+]?", "…", text)
        text = re.sub(r"\((?:\?P<\w+>|\?:|\?[=!])((?:[^()\\]|\\.)*)\)[?*+]?", _first, text)
    text = re.sub(r"\[(?:[^\]\\]|\\.)*\][*+?]*(?:\{[\d,]+\})?", "…", text)
    text = re.sub(r"(?:\\[wdsSDW]|(?<!\\)\.)[*+?]+", "…", text)
    return [_plain(part) for part in re.split(r"(?<!\\)\|", text)]


def _plain(text: str) -> str:
    text = re.sub(r"\\([^\w])", r"\1", text).replace("`", "'").replace("\\n", " ")
    return re.sub(r"…[\s…]*…", "…", text).strip("^$ ")


def _first(group: re.Match[str]) -> str:
    return group[1].split("|")[0]


if __name__ == "__main__":
    main()

"""Write ``docs/benchmarks.md`` from ``bench/results/*.json``.

python bench/write_page.py [--results FOLDER] [--page FILE]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from harness import results
from harness.environment import BENCH, ROOT
from harness.results import Row

ORDER = ("training", "frozen", "parity", "pipeline", "overhead", "startup", "saves")
HEAD = """# Benchmarks

Written by `python bench/write_page.py` from `bench/results/*.json`; do not edit.

luthier beside the plain loop of PyTorch's transfer-learning tutorial, Lightning, Hugging Face's
Trainer, fastai, Ignite, Accelerate and timm: the same photos, start weights, augmentation,
optimizer, batch size and epochs, each library in the form that its own documentation gives. The
scripts are in `bench/compare/`, one a library. Whole processes run by turns, a ratio is taken
within a round, and a figure is the median of the rounds, with their range beside it. A ratio (x) is
luthier's speed over the other's: 2 is twice as fast. Accuracy is a difference in photos with
its 95 % interval; "met" says there that the interval reaches zero: not shown to be worse.

```sh
python bench/compare.py PHOTOS --quick    # under five minutes, after a first call that installs
python bench/compare.py PHOTOS --full     # about two hours
python bench/parity.py PHOTOS             # accuracy over ten seeds: hours; it can be stopped
python bench/write_page.py
```
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=BENCH / "results")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md")
    values = parser.parse_args()
    read = {path.stem: results.read(path) for path in values.results.glob("*.json")}
    rows = [
        read[name]
        for kind in ORDER
        for name in sorted(read)
        if name == kind or name.startswith(f"{kind}-")
    ]
    values.page.write_text(page(rows), encoding="utf-8")


def page(rows: list[tuple[Row, dict[str, Any]]]) -> str:
    """Return the page of rows, each with the form, day and machine of its file."""
    parts = [HEAD, *(section(row, rest) for row, rest in rows)]
    machines: dict[str, list[str]] = {}
    for row, rest in rows:
        machines.setdefault(described(rest["machine"]), []).append(row.title)
    parts.append("## Machines and versions\n")
    parts += [f"- {', '.join(titles)}: {text}\n" for text, titles in machines.items()]
    return "\n".join(parts)


def section(row: Row, rest: dict[str, Any]) -> str:
    """Return a row's title, settings and table."""
    settings = [f"{name}: {value}" for name, value in row.settings.items()]
    note = f"{', '.join(settings)}{'; ' if settings else ''}{rest['form']} form, {rest['taken']}"
    lines = [f"## {row.title}", "", note.capitalize() + ".", ""]
    lines += ["| what | value | range | goal | met |", "| --- | --- | --- | --- | --- |"]
    for found in row.figures:
        cells = results.cells(found)
        lines.append(f"| {' | '.join(cells)} |")
    lines += [f"\n{name} could not be measured: {why}" for name, why in row.failures.items()]
    return "\n".join([*lines, ""])


def described(machine: dict[str, Any]) -> str:
    """Return a machine's facts as one line."""
    facts = [f"{name} {value}" for name, value in machine.items() if name != "versions"]
    versions = [f"{name} {version}" for name, version in machine["versions"].items()]
    return f"{', '.join(facts)}. Versions: {', '.join(versions)}."


if __name__ == "__main__":
    main()

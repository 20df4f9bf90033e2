"""luthier beside its peers and beside its goals, on one machine, by turns.

    python bench/compare.py [DATA] [--quick | --full] [--rows training frozen …]

The first call makes a virtual environment of pinned packages. DATA is a folder with ``train/`` and
``val/`` of class folders. The quick form takes under five minutes on two cores, and its figures go
to the scratch folder; those of the full form (about two hours) go to ``bench/results``, from which
``bench/write_page.py`` writes ``docs/benchmarks.md``. Ratios are taken within a round, whose
processes follow each other; a figure is the median of the rounds.

Needs Python 3.11 or newer, and nothing else.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable
from pathlib import Path

from harness import environment, machine, photos, results, scripts, training
from harness.forms import FORMS, MODELS, Form
from harness.processes import FailedError, Runner
from harness.training import PEERS, Bench

OF_A_MODEL = {"training": training.training, "frozen": training.frozen}
OF_NONE = {
    "pipeline": scripts.pipeline,
    "overhead": scripts.overhead,
    "startup": scripts.startup,
    "saves": scripts.saves,
}
ROWS = [*OF_A_MODEL, *OF_NONE]


def asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="?", type=Path, default=photos.SHARED / "hymenoptera")
    form = parser.add_mutually_exclusive_group()
    for name, text in {
        "quick": "few photos, one round (the default)",
        "full": "all photos, three rounds",
        "tiny": "only that everything runs; the figures mean nothing",
    }.items():
        form.add_argument(f"--{name}", dest="form", action="store_const", const=name, help=text)
    parser.add_argument("--rows", nargs="+", metavar="ROW", choices=ROWS, default=ROWS)
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="torchvision's names")
    parser.add_argument("--peers", nargs="+", metavar="PEER", choices=PEERS, default=list(PEERS))
    parser.add_argument("--rounds", type=int, help="instead of the form's own number")
    parser.add_argument("--venv", type=Path, default=environment.SCRATCH / "venv")
    parser.add_argument("--out", type=Path, help="folder of the results")
    parser.set_defaults(form="quick")
    return parser.parse_args()


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    values = asked()
    form = FORMS[values.form]
    if values.rounds:
        form = Form(**{**vars(form), "rounds": values.rounds})
    scratch = environment.hidden(environment.SCRATCH)
    python = environment.ready(values.venv, say)
    data = values.data
    if form.photos is not None:
        data = photos.few(data, *form.photos, scratch / "photos" / data.name)
    out = values.out or (
        environment.BENCH / "results" if form.name == "full" else scratch / "results"
    )
    bench = Bench(Runner(python, scratch, say), data, form, values.peers, scratch)
    rows: list[Callable[[], results.Row]] = []
    for name in values.rows:
        if name in OF_A_MODEL:
            of = OF_A_MODEL[name]
            rows += [functools.partial(of, bench, model) for model in values.models]
        else:
            rows.append(functools.partial(OF_NONE[name], bench))
    facts = machine.facts(python)
    failures = 0
    for measure in rows:
        try:
            row = measure()
        except FailedError as error:
            say(f"FAILED: {error}")
            failures += 1
            continue
        results.write(row, form.name, facts, out)
        failures += len(row.failures)
        show(row)
    return 1 if failures else 0


def show(row: results.Row) -> None:
    """Print a row's figures as a table."""
    table = [results.cells(figure) for figure in row.figures]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    print(f"\n{row.title}")
    for line in table:
        padded = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        print("  " + "  ".join(padded).rstrip())
    for name, failure in row.failures.items():
        print(f"  {name}: failed: {failure}")


if __name__ == "__main__":
    sys.exit(main())

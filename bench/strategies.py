"""Every strategy on the same photos: best and last validation accuracy, seconds.

    python bench/strategies.py DATA --weights FILE --out FOLDER [--model mobilenet_v2] …

Runs that are finished in FOLDER are not run again, so an interrupted benchmark goes on.
Everything after ``--`` is handed to each ``luthier finetune``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from luthier.recipe import STRATEGIES
from luthier.report import draw_comparison, read_metrics, table
from luthier.values import Score


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data")
    parser.add_argument("--weights", help="for every strategy but scratch")
    parser.add_argument("--model", default="mobilenet_v2")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    own, extra = sys.argv[1:], []
    if "--" in own:
        at = own.index("--")
        own, extra = own[:at], own[at + 1 :]
    asked = parser.parse_args(own)
    rows, runs = [], {}
    for strategy in asked.strategies.split(","):
        out = asked.out / strategy
        finish(asked, strategy, out, extra)
        summary = json.loads((out / "summary.json").read_text())
        best, last = Score.from_dict(summary["best"]), Score.from_dict(summary["last"])
        runs[strategy] = read_metrics(out / "metrics.jsonl")
        rows.append([strategy, *cells(best), *cells(last), f"{summary['seconds']:.0f}"])
    header = ["strategy", "best", "95 % interval", "last", "95 % interval", "seconds"]
    print(table(header, rows))
    picture = asked.out / "strategies.png"
    draw_comparison(runs, picture, f"{asked.model} on {Path(asked.data).name}")
    print(picture)


def finish(asked: argparse.Namespace, strategy: str, out: Path, extra: list[str]) -> None:
    """Start the run, or continue it, unless it is finished."""
    if (out / "summary.json").exists():
        return
    command = [sys.executable, "-m", "luthier"]
    if (out / "recipe.toml").exists():
        command += ["resume", str(out)]
    else:
        command += ["finetune", asked.data, "--model", asked.model, "--strategy", strategy]
        command += ["--out", str(out), *extra]
        if strategy != "scratch":
            command += ["--weights", asked.weights]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def cells(score: Score) -> list[str]:
    low, high = score.accuracy.interval()
    return [
        f"{100 * score.accuracy.value:.2f} % ({score.accuracy.correct}, epoch {score.epoch})",
        f"{100 * low:.1f} to {100 * high:.1f} %",
    ]


if __name__ == "__main__":
    main()

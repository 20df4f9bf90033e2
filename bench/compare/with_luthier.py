"""luthier: the command ``luthier finetune``; flags beside ``--data`` and ``--out`` are its own."""

import argparse
import json
from pathlib import Path

from luthier.cli.main import leave
from luthier.cli.main import main as luthier


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    values, flags = parser.parse_known_args()
    run = values.out / "run"
    status = luthier(["finetune", values.data, "--out", str(run), *flags])
    if status == 0:
        report(run)
    return status


def report(run: Path) -> None:
    """Print the line that the other scripts print, from what the run has written."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines if line]
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    seconds = {k: [r["seconds"] for r in records if r["kind"] == k] for k in ("train", "val")}
    found = {
        "images": sum(summary["images"]["train"].values()),
        "accuracy": accuracy(summary["last"]),
        "best": accuracy(summary["best"]),
        "inside": summary["seconds"],
        "precision": summary["environment"].get("precision"),
    }
    print(json.dumps(seconds | found))


def accuracy(score: dict) -> float:
    return score["correct"] / score["images"]


if __name__ == "__main__":
    leave(main())  # as the command does

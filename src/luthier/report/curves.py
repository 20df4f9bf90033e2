"""Training and validation curves as a picture."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Records = Sequence[Mapping[str, Any]]
# Okabe and Ito's colours (2008), told apart by readers with any colour vision.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the records of a ``metrics.jsonl``."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line]


def draw_curves(records: Records, path: Path, title: str) -> None:
    """Draw loss (above) and accuracy (below) of one run over its iterations.

    Args:
        records: of ``metrics.jsonl``; "step", "train" and "val" are used.
        path: the PNG to write.
        title: stands above.
    """
    figure, (losses, accuracies) = _figure(title)
    steps = _kind(records, "step")
    train, val = _kind(records, "train"), _kind(records, "val")
    losses.plot(*_xy(steps, "loss"), color=_COLOURS[0], alpha=0.25, lw=0.8, label="training, batch")
    for axes, what, scale in ((losses, "loss", 1), (accuracies, "accuracy", 100)):
        axes.plot(*_xy(train, what, scale), color=_COLOURS[0], marker=".", label="training, epoch")
        axes.plot(*_xy(val, what, scale), color=_COLOURS[1], marker=".", label="validation")
    best = max(val, key=lambda r: (r["accuracy"], -r["loss"]), default=None)
    if best is not None:
        text = f"best {100 * best['accuracy']:.1f} % (epoch {best['epoch']})"
        accuracies.axhline(100 * best["accuracy"], color=_COLOURS[1], lw=0.8, ls=":", label=text)
    for axes in (losses, accuracies):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=9, loc="best")
    _finish(figure, losses, accuracies, path)


def draw_comparison(runs: Mapping[str, Records], path: Path, title: str) -> None:
    """Draw several runs over each other: training loss dashed, validation in full lines.

    Args:
        runs: records by name.
        path: the PNG to write.
        title: stands above.
    """
    figure, (losses, accuracies) = _figure(title)
    for colour, (name, records) in zip(itertools.cycle(_COLOURS), runs.items(), strict=False):
        val = _kind(records, "val")
        losses.plot(*_xy(_kind(records, "train"), "loss"), color=colour, ls="--", lw=1)
        losses.plot(*_xy(val, "loss"), color=colour, marker=".", label=name)
        accuracies.plot(*_xy(val, "accuracy", 100), color=colour, marker=".", label=name)
    losses.plot([], [], color="grey", ls="--", lw=1, label="training")
    # One legend beside the panels: so many curves leave no room between them.
    figure.legend(*losses.get_legend_handles_labels(), frameon=False, loc="outside right upper")
    _finish(figure, losses, accuracies, path)


def _kind(records: Records, kind: str) -> list[Mapping[str, Any]]:
    return [record for record in records if record["kind"] == kind]


def _xy(
    records: Iterable[Mapping[str, Any]], what: str, scale: float = 1
) -> tuple[list[float], list[float]]:
    chosen = list(records)
    return [r["iteration"] for r in chosen], [scale * r[what] for r in chosen]


def _figure(title: str) -> tuple[Figure, tuple[Axes, Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - takes 0.2 s
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    figure = Figure(figsize=(8, 7), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    losses, accuracies = figure.subplots(2, 1, sharex=True)
    figure.suptitle(title, parse_math=False)
    losses.set_ylabel("loss (cross-entropy)")
    accuracies.set_ylabel("accuracy, %")
    accuracies.set_xlabel("iteration (batches)")
    accuracies.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, (losses, accuracies)


def _finish(figure: Figure, losses: Axes, accuracies: Axes, path: Path) -> None:
    for axes in (losses, accuracies):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    losses.set_ylim(bottom=0)
    figure.savefig(path, format="png", metadata={"Software": "luthier"})

"""Finished values → lines, tables and curves. Needs no torch."""

from luthier.report.card import Card, render_card
from luthier.report.console import Console, epoch_line
from luthier.report.curves import Records, draw_comparison, draw_curves, read_metrics
from luthier.report.evaluation import calibration_line, evaluation_lines, mcnemar_lines
from luthier.report.table import table
from luthier.report.times import breakdown, spent, time_line, verdict

__all__ = [
    "Card",
    "Console",
    "Records",
    "breakdown",
    "calibration_line",
    "draw_comparison",
    "draw_curves",
    "epoch_line",
    "evaluation_lines",
    "mcnemar_lines",
    "read_metrics",
    "render_card",
    "spent",
    "table",
    "time_line",
    "verdict",
]

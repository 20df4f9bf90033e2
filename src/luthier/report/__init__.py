"""Finished values → lines, tables and curves. Needs no torch."""

from luthier.report.card import Card, render
from luthier.report.console import Console, epoch_line
from luthier.report.curves import draw_comparison, draw_curves, read_metrics
from luthier.report.table import table
from luthier.report.times import breakdown, time_line, verdict

__all__ = [
    "Card",
    "Console",
    "breakdown",
    "draw_comparison",
    "draw_curves",
    "epoch_line",
    "read_metrics",
    "render",
    "table",
    "time_line",
    "verdict",
]

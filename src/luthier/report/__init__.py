"""Finished values → lines, tables and curves. Needs no torch."""

from luthier.report.console import Console, epoch_line
from luthier.report.curves import Records, draw_comparison, draw_curves, read_metrics
from luthier.report.table import table
from luthier.report.times import breakdown, time_line, verdict

__all__ = [
    "Console",
    "Records",
    "breakdown",
    "draw_comparison",
    "draw_curves",
    "epoch_line",
    "read_metrics",
    "table",
    "time_line",
    "verdict",
]

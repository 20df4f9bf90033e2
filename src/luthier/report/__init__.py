"""Finished values → lines, tables and curves. Needs no torch."""

from luthier.report.console import Console, epoch_line
from luthier.report.curves import draw_comparison, draw_curves, read_metrics
from luthier.report.table import table

__all__ = ["Console", "draw_comparison", "draw_curves", "epoch_line", "read_metrics", "table"]

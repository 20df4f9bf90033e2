"""Plain values → one self-contained page of HTML. Pure."""

from luthier.report.page.comparison import render_comparison
from luthier.report.page.noise import differences
from luthier.report.page.run import render_run
from luthier.report.page.values import ComparisonPage, Difference, Example, RunFacts, RunPage

__all__ = [
    "ComparisonPage",
    "Difference",
    "Example",
    "RunFacts",
    "RunPage",
    "differences",
    "render_comparison",
    "render_run",
]

"""Plain values → one self-contained page of HTML. Pure."""

from luthier.report.page.comparison import render_comparison
from luthier.report.page.noise import differences
from luthier.report.page.run import render_run
from luthier.report.page.study import render_study
from luthier.report.page.values import (
    ComparisonPage,
    Difference,
    Example,
    Member,
    RunFacts,
    RunPage,
    StudyPage,
)

__all__ = [
    "ComparisonPage",
    "Difference",
    "Example",
    "Member",
    "RunFacts",
    "RunPage",
    "StudyPage",
    "differences",
    "render_comparison",
    "render_run",
    "render_study",
]

"""Several runs of one question: which there are to be, and what they come to. Pure."""

from luthier.studies.plan import STUDY, Study, Trial, is_study, read_study, variations_of
from luthier.studies.standings import (
    COLUMNS,
    Difference,
    Standing,
    differences,
    standings,
)

__all__ = [
    "COLUMNS",
    "STUDY",
    "Difference",
    "Standing",
    "Study",
    "Trial",
    "differences",
    "is_study",
    "read_study",
    "standings",
    "variations_of",
]

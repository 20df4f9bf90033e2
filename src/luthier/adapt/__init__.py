"""Foreign weights → this model: plan (pure) → report → apply."""

from luthier.adapt.apply import load, match
from luthier.adapt.matching import How
from luthier.adapt.plan import Assignment, HeadFit, LoadPlan
from luthier.adapt.transforms import Rows

__all__ = ["Assignment", "HeadFit", "How", "LoadPlan", "Rows", "load", "match"]

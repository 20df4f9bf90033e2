"""Foreign weights → this model: plan (pure) → report → apply."""

from luthier.adapt.apply import load
from luthier.adapt.matching import match
from luthier.adapt.plan import Assignment, HeadFit, LoadPlan
from luthier.adapt.transforms import Rows

__all__ = ["Assignment", "HeadFit", "LoadPlan", "Rows", "load", "match"]

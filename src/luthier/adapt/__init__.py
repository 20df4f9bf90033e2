"""Foreign weights → this model: plan (pure) → report → apply."""

from luthier.adapt.apply import load
from luthier.adapt.plan import LoadPlan, match

__all__ = ["LoadPlan", "load", "match"]

"""Scores and labels → how good a model is. Pure; the formulas are torchmetrics'."""

from luthier.metrics.calibration import fit_temperature
from luthier.metrics.comparison import compare
from luthier.metrics.evaluation import calibration_error, evaluation, log_probabilities

__all__ = ["calibration_error", "compare", "evaluation", "fit_temperature", "log_probabilities"]

"""Scores and labels → how good a model is. Pure; what is more than counting is torchmetrics'."""

from luthier.metrics.calibration import fit_temperature
from luthier.metrics.evaluation import calibration_error, evaluation, log_probabilities
from luthier.metrics.mcnemar import mcnemar

__all__ = ["calibration_error", "evaluation", "fit_temperature", "log_probabilities", "mcnemar"]

"""The step loop as a generator; schedules, mixing, averaging, evaluation."""

from luthier.training.average import WeightAverage
from luthier.training.buckets import as_the_first
from luthier.training.clock import Clock
from luthier.training.compiling import compile_in_place
from luthier.training.evaluate import evaluate
from luthier.training.loop import Learner, check_finite, train_epoch
from luthier.training.microbatch import MicroBatch
from luthier.training.nonfinite import first_nonfinite
from luthier.training.parts import fit_fused, make_criterion, make_mix, make_optimizer
from luthier.training.precision import Precision, reproducible
from luthier.training.probe import Probe, Shown, fit_probe, folds_of
from luthier.training.recomputing import recomputed
from luthier.training.replicas import Replicas
from luthier.training.schedule import Rates, rates_at
from luthier.training.sharded import Sharded
from luthier.training.shared_gradients import SharedGradients
from luthier.training.synced_norms import SyncedNorms
from luthier.training.team import Team
from luthier.training.toward import TowardStart
from luthier.training.virtual_shards import VirtualShards

__all__ = [
    "Clock",
    "Learner",
    "MicroBatch",
    "Precision",
    "Probe",
    "Rates",
    "Replicas",
    "Sharded",
    "SharedGradients",
    "Shown",
    "SyncedNorms",
    "Team",
    "TowardStart",
    "VirtualShards",
    "WeightAverage",
    "as_the_first",
    "check_finite",
    "compile_in_place",
    "evaluate",
    "first_nonfinite",
    "fit_fused",
    "fit_probe",
    "folds_of",
    "make_criterion",
    "make_mix",
    "make_optimizer",
    "rates_at",
    "recomputed",
    "reproducible",
    "train_epoch",
]

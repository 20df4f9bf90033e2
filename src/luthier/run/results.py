"""What a run hands over: the model's description of itself, and the summary."""

from __future__ import annotations

from typing import Any

from luthier.recipe import decided
from luthier.run import conditions
from luthier.run.description import Description, full_name
from luthier.run.folder import RunFolder
from luthier.run.job import Job
from luthier.run.progress import Progress
from luthier.strategies import Audit
from luthier.values import Score


def description(job: Job, score: Score) -> dict[str, Any]:
    """Return what goes into a model file so that it needs nothing else; plain JSON values."""
    how = job.recipe
    return Description(
        architecture=full_name(decided(how.model.model)),
        arguments={"num_classes": len(job.photos.classes)},
        head=job.head.name,
        classes=tuple(job.photos.classes),
        preprocessing=job.preprocessing,
        training={
            "strategy": how.strategy.strategy,
            "seed": how.training.seed,
            "epochs": how.training.epochs,
            "validation": score.as_dict(),
        },
        start={k: job.start[k] for k in ("source", "sha256", "classes") if k in job.start},
    ).as_dict()


def summary(
    job: Job, folder: RunFolder, progress: Progress, seconds: float, audit: Audit, learning: int
) -> dict[str, Any]:
    """Return what came out of a run as plain JSON values; ``learning`` parameters were trained."""
    return {
        "run": str(folder.path),
        "model": str(folder.model),
        "strategy": job.recipe.strategy.strategy,
        "best": progress.best and progress.best.as_dict(),
        "last": progress.last and progress.last.as_dict(),
        "before": progress.before and progress.before.as_dict(),
        "epochs": progress.at.epoch,
        "steps": progress.at.step,
        "micro_batch": progress.micro,
        "learning": learning,
        "seconds": round(seconds, 3),
        "classes": list(job.photos.classes),
        "images": job.photos.counts(),
        "unreadable": [list(pair) for pair in job.photos.unreadable],
        "start": job.start,
        "audit": [list(row) for row in audit.moved],
        "environment": environment(job),
    }


def environment(job: Job) -> dict[str, Any]:
    """Return what the bits of a job depend on, as plain JSON values."""
    shards = job.recipe.machine.virtual_shards  # then the number of processes changes no bit
    processes = job.world.size if shards is None else shards
    return conditions.here(job.precision.device, job.precision.name, processes)

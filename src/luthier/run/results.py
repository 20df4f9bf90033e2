"""What a run hands over: the model's description of itself, and the summary."""

from __future__ import annotations

from typing import Any

from luthier import checkpoint, report
from luthier.recipe import decided
from luthier.run import conditions
from luthier.run.folder import RunFolder
from luthier.run.job import Job
from luthier.run.progress import Progress
from luthier.strategies import Audit
from luthier.values import Score
from luthier.weights.description import Description, full_name


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
            "precision": job.precision.name,
            "validation": score.as_dict(),
        },
        start={k: job.start[k] for k in ("source", "sha256", "classes") if k in job.start},
    ).as_dict()


def summary(
    job: Job,
    folder: RunFolder,
    progress: Progress,
    seconds: float,
    audit: Audit,
    parameters: tuple[int, int],
) -> dict[str, Any]:
    """Return what came out of a run as plain JSON values.

    Args:
        job: that was done.
        folder: of the run.
        progress: at its end.
        seconds: of work.
        audit: of its end.
        parameters: how many there are, and how many were trained.
    """
    return {
        "run": folder.name,
        "model": f"{folder.url}/model.safetensors" if folder.url else str(folder.model),
        "strategy": job.recipe.strategy.strategy,
        "best": progress.best and progress.best.as_dict(),
        "last": progress.last and progress.last.as_dict(),
        "before": progress.before and progress.before.as_dict(),
        "epochs": progress.at.epoch,
        "steps": progress.at.step,
        "micro_batch": progress.micro,
        "parameters": parameters[0],
        "learning": parameters[1],
        "seconds": round(seconds, 3),
        "classes": list(job.photos.classes),
        "images": job.photos.counts(),
        "notes": list(job.photos.notes),
        "unreadable": [list(pair) for pair in job.photos.unreadable],
        "start": job.start,
        "audit": [list(row) for row in audit.moved],
        "environment": environment(job),
    }


def images_a_second(records: report.Records, strategy: str) -> float | None:
    """Return how many images a run has learned from a second; None of a probe, which has none."""
    epochs = [r for r in records if strategy != "probe" and r["kind"] == "train"]
    seconds = sum(record["seconds"] for record in epochs)
    return sum(record["images"] for record in epochs) / seconds if seconds else None


def checkpoint_bytes(folder: RunFolder) -> int | None:
    """Return the size of a run's newest checkpoint; None where it has none."""
    steps = checkpoint.steps_in(folder.checkpoints)
    if not steps:
        return None
    place = checkpoint.directory_of(folder.checkpoints, steps[-1])
    return sum(path.stat().st_size for path in place.iterdir())


def environment(job: Job) -> dict[str, Any]:
    """Return what the bits of a job depend on, as plain JSON values."""
    # With a probe, and with virtual shards, the number of processes changes no bit.
    is_probe = job.recipe.strategy.strategy == "probe"
    processes = job.recipe.machine.virtual_shards or (1 if is_probe else job.world.size)
    return conditions.here(job.precision.device, job.precision.name, processes)

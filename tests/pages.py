"""Made-up runs for pages."""

from __future__ import annotations

from typing import Any

from luthier.report.page import Example, Member, RunFacts, RunPage, StudyPage
from luthier.values import ClassScores, Evaluation, Mistake, Outcome, Proportion, Score


def records(epochs: int, batches: int = 4, better: float = 0.0) -> list[dict[str, Any]]:
    """What a run writes whose accuracy climbs from a half."""
    made: list[dict[str, Any]] = []
    for epoch in range(1, epochs + 1):
        at = {"epoch": epoch, "lr": 0.1 / epoch}
        for batch in range(1, batches + 1):
            iteration = (epoch - 1) * batches + batch
            made.append({"kind": "step", "iteration": iteration, "loss": 2 / iteration, **at})
        for kind, loss in (("train", 1 / epoch), ("val", 1.1 / epoch)):
            accuracy = 1 - 1 / (epoch + 1) + better
            scores = {"accuracy": accuracy, "correct": round(40 * accuracy), "images": 40}
            made.append(
                {
                    "kind": kind,
                    "iteration": epoch * batches,
                    "loss": loss,
                    **scores,
                    "seconds": 2.0,
                    **at,
                }
            )
    return made


def facts(name: str = "run", *, epochs: int = 3, better: float = 0.0, **other: Any) -> RunFacts:
    made = records(epochs, better=better)
    last = made[-1]
    score = Score(epochs, last["loss"], Proportion(last["correct"], last["images"]))
    known: dict[str, Any] = {
        "name": name,
        "model": "net",
        "strategy": "full",
        "weights": "some.pth",
        "data": "photos",
        "best": score,
        "last": score,
        "before": None,
        "epochs": epochs,
        "seconds": 12.5,
        "speed": 20.0,
        "learning": 10,
        "parameters": 2000,
        "checkpoint": 123456,
        "recipe": {"training": {"epochs": epochs}},
        "records": made,
    }
    return RunFacts(**known | other)


def run_page(
    classes: tuple[str, ...] = ("cat", "dog"),
    image: str = "val/cat/1.png",
    jpeg: bytes | None = None,
    **other: Any,
) -> RunPage:
    """Return the page of a run with two images a class right and one of the first wrong."""
    count = len(classes)
    confusion = [[2 * (a == b) for b in range(count)] for a in range(count)]
    confusion[0][1] += 1
    mistake = Mistake(image, classes[0], classes[1], 0.87)
    known: dict[str, Any] = {
        "facts": facts(),
        "images": {"train": dict.fromkeys(classes, 5), "val": dict.fromkeys(classes, 2)},
        "evaluation": Evaluation(
            classes=classes,
            accuracy=Proportion(2 * count, 2 * count + 1),
            loss=0.5,
            balanced_accuracy=0.9,
            top_k={1: Proportion(2 * count, 2 * count + 1)},
            per_class=tuple(ClassScores(name, 2, 0.75, 0.5, float("nan")) for name in classes),
            confusion=tuple(map(tuple, confusion)),
            calibration_error=0.04,
            roc_auc=None,
            mistakes=(mistake,),
        ),
        "mistakes": (Example(image, mistake.label, jpeg, mistake.said, mistake.probability),),
        "augmented": (Example(image, classes[0], jpeg),),
        "time": {"computing": 9.0, "waiting for data": 1.0},
        "loaded": "10 of 10 tensors loaded",
        "rows": ((classes[0], "house cat", "the same name"),),
        "audit": (("trunk.0", 0, 3), ("trunk.1", 0, 2), ("head", 2, 2)),
        "environment": {"torch": "2.13"},
        "notes": ("warning: copies on both sides",),
        "absent": (),
    }
    return RunPage(**known | other)


def study_page(name: str = "full") -> StudyPage:
    """Two names, three runs of each."""
    members = []
    for seed in range(3):
        for one, better in ((name, 0.1), ("frozen", 0.0)):
            made = facts(one, better=better, epochs=2 + seed)
            outcome = Outcome(one, seed, f"{seed + 1}/3", made.best, made.last, 1.5)
            members.append(Member(outcome, made.records, f"{one}/report.html"))
    header = ("", "runs", "best, %", "95 % interval")
    rows = ((name, "3", "85.00 ± 1.00", "70.1 to 92.0"), ("frozen", "3", "75.00", "60.0 to 83.0"))
    said = (f"{name} is 10.00 points better than frozen",)
    return StudyPage(name, header, rows, said, tuple(members))

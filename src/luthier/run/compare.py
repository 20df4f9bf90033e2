"""Several runs of one question, each a run as any other: made, continued, shown side by side."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from luthier import devices, recipe, report
from luthier.data import Inventory
from luthier.errors import (
    DamagedError,
    InterruptedRunError,
    RecipeError,
    RunFolderError,
)
from luthier.files import durable
from luthier.recipe import Recipe
from luthier.report import Console, page
from luthier.report.page import Member, StudyPage
from luthier.run import predictions, results
from luthier.run.beside import Planned, run_beside
from luthier.run.finetune import finetune, resume
from luthier.run.folder import RunFolder, free_folder, held, new_run
from luthier.studies import (
    COLUMNS,
    STUDY,
    Difference,
    Standing,
    Study,
    Trial,
    differences,
    is_study,
    read_study,
    standings,
    variations_of,
)
from luthier.values import Outcome, Score


@dataclass(frozen=True)
class Comparison:
    """Runs side by side; ``str(comparison)`` is a table and what follows from it.

    Attributes:
        standings: what the runs of each name came to, the best mean first.
        differences: of the best from each other.
        outcomes: of each run.
        runs: folders by run, as ``outcomes``.
        page: where they are shown, of runs that were made together.
        unfinished: names of runs that are not finished.
    """

    standings: tuple[Standing, ...]
    differences: tuple[Difference, ...]
    outcomes: tuple[Outcome, ...]
    runs: tuple[Path, ...]
    page: Path | None = None
    unfinished: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "standings": [standing.as_dict() for standing in self.standings],
            "differences": [difference.as_dict() for difference in self.differences],
            "runs": [str(path) for path in self.runs],
            "page": self.page and str(self.page),
            "unfinished": list(self.unfinished),
        }

    def __str__(self) -> str:
        lines = [report.table(COLUMNS, [standing.row() for standing in self.standings])]
        lines += map(str, self.differences)
        lines += [f"page {self.page}"] if self.page is not None else []
        lines += [f"not finished: {', '.join(self.unfinished)}"] if self.unfinished else []
        return "\n".join(lines)


def compare(
    *what: str | Path,
    strategies: Sequence[str] = (),
    seeds: int = 1,
    folds: int = 1,
    out: str | Path | None = None,
    recipe_file: str | Path | None = None,
    at_once: int | None = None,
    wait: str | float = 0,
    console: Console | None = None,
    **knobs: Any,
) -> Comparison:
    """Run variations of a recipe on the same images and compare them, or compare runs there are.

    Each run is one of ``luthier.finetune`` in a folder of its own. What is finished is not run
    again: the same request in the same folder goes on where it was interrupted, to the same bits,
    and a larger one (more seeds, further strategies) adds to it.

    Args:
        what: images, as of ``finetune``; or folders of runs, or of such comparisons, to be shown.
        strategies: names, or files of recipes (.toml) that go on top; by default the one strategy.
        seeds: runs of each with other seeds, from the recipe's own on. The seed decides the
            split, too, where the data has none of its own.
        folds: parts of all images, each of which is validated on in turn (cross-validation).
        out: a new folder; ``runs/NAME-compared`` by default.
        recipe_file: a recipe; ``knobs`` go on top.
        at_once: runs beside each other, each a process of its own; as many as there are
            accelerators by default.
        wait: for an accelerator, as in ``finetune``.
        console: where to say things; standard error by default.
        **knobs: any field of the recipe. One that has no effect with one of the strategies is
            left out there.

    Raises:
        RecipeError: a run makes no sense; nothing is written then.
        InterruptedRunError: after a signal and a safe save. LuthierError: as ``finetune``.
    """
    console = console or Console()
    folders = [Path(path) for path in what]
    known = [folder for folder in folders if _is_run(folder) or is_study(folder)]
    if folders and len(known) == len(folders):
        _check_only_shown(strategies, seeds, folds, recipe_file, knobs)
        alone = folders[0] if len(folders) == 1 and is_study(folders[0]) else None
        return _shown(folders, alone)
    if len(folders) != 1:
        strange = next((f for f in folders if f not in known), None)
        raise RunFolderError(
            f"{strange} is no run" if strange else "nothing is named that could be compared",
            cure="name images and --strategies, or the folders of runs",
        )
    base = recipe.read(Path(recipe_file)) if recipe_file is not None else Recipe()
    base = recipe.overlay(base, **knobs, data=str(folders[0]))
    files = {name: recipe.read(Path(name)) for name in strategies if name.endswith(".toml")}
    study = Study(base, variations_of(base, strategies, files), seeds, folds)
    trials = study.trials()
    folder = _folder_of(study, Path(out) if out is not None else None)
    return _run(study, trials, folder, console, _Means(_at_once(at_once), wait))


def go_on(
    folder: str | Path,
    *,
    at_once: int | None = None,
    wait: str | float = 0,
    console: Console | None = None,
) -> Comparison:
    """Continue a comparison that was interrupted.

    Args:
        folder: of the comparison.
        at_once: as in ``compare``.
        wait: likewise.
        console: likewise.

    Raises:
        LuthierError: as ``compare``.
    """
    study, means = read_study(Path(folder)), _Means(_at_once(at_once), wait)
    return _run(study, study.trials(), Path(folder), console or Console(), means)


@dataclass(frozen=True)
class _Means:
    at_once: int
    wait: str | float


def _at_once(given: int | None) -> int:
    if given is not None and given < 1:
        raise RecipeError(f"--at-once {given}: expected 1 or more")
    return given or max(1, len(devices.probe().cuda))


def _is_run(folder: Path) -> bool:
    return RunFolder(folder).recipe.is_file()


def _check_only_shown(
    strategies: Sequence[str],
    seeds: int,
    folds: int,
    recipe_file: str | Path | None,
    knobs: Mapping[str, Any],
) -> None:
    given = {"strategies": list(strategies), "recipe": recipe_file, **knobs}
    given |= {"seeds": None if seeds == 1 else seeds, "folds": None if folds == 1 else folds}
    for name, value in given.items():
        if value:
            flag = "--" + name.replace("_", "-")
            raise RecipeError(
                f"{flag} has no effect on runs that are there, which are only shown",
                cure="leave it out, or name images in place of runs",
            )


# --- making ---------------------------------------------------------------------------------------


def _folder_of(study: Study, out: Path | None) -> Path:
    if out is None:
        name = Path(str(study.base.data.data)).resolve().stem or "run"
        out = Path("runs") / f"{name}-compared"
        return out if _grows_from(out, study) else free_folder(out)
    if _grows_from(out, study):
        return out
    if is_study(out):
        raise RunFolderError(
            f"--out {out} holds another comparison: {_first_difference(study, read_study(out))}",
            cure=f"give another --out; that one is continued by: luthier resume {out}",
        )
    return new_run(out, "").path


def _grows_from(folder: Path, study: Study) -> bool:
    """Tell whether all runs of the study in a folder are runs of this one, too."""
    return is_study(folder) and set(read_study(folder).trials()) <= set(study.trials())


def _first_difference(one: Study, other: Study) -> str:
    ours, theirs = ({**s.as_dict(), **s.as_dict()["recipe"]} for s in (one, other))
    for name in sorted(ours.keys() | theirs.keys() - {"recipe"}):
        if name != "recipe" and ours.get(name) != theirs.get(name):
            return f"{name} is {theirs.get(name)!r:.60} there and {ours.get(name)!r:.60} here"
    return "its request differs"


def _run(
    study: Study, trials: Sequence[Trial], folder: Path, console: Console, means: _Means
) -> Comparison:
    whole = RunFolder(folder.resolve())
    with held(whole):
        whole.sweep()
        if not is_study(folder) or read_study(folder).as_dict() != study.as_dict():
            durable.write_text(folder / STUDY, json.dumps(study.as_dict(), indent=1) + "\n")
        planned = [Planned(t.name, RunFolder(folder / t.name), t.recipe) for t in trials]
        left = [plan for plan in planned if not plan.folder.summary.exists()]
        with _naming(folder):
            if means.at_once > 1:
                run_beside(left, means.at_once, means.wait, lambda plan: _say(plan, console))
            for number, plan in enumerate(left if means.at_once == 1 else ()):
                console.say(f"run {planned.index(plan) + 1} of {len(planned)}: {plan.name}")
                # What is true of all of them is said once.
                quiet = Console(console.stream, quiet=console.quiet or number > 0)
                _run_one(plan, quiet, means.wait)
                _say(plan, console)
        if whole.features.exists():
            durable.remove_directory(whole.features)
        return _shown([folder], folder)


@contextlib.contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """Say of an interruption how the whole is continued."""
    try:
        yield
    except InterruptedRunError as error:
        cure = f"continue with: luthier resume {folder}"
        raise InterruptedRunError(error.what, cure=cure) from error


def _run_one(plan: Planned, console: Console, waits: str | float) -> None:
    if plan.folder.recipe.exists():
        resume(plan.folder.path, console=console, wait=waits)
        return
    given = recipe.given(plan.recipe)
    data = given.pop("data")
    finetune(data, out=plan.folder.path, console=console, wait=waits, **given)


def _say(plan: Planned, console: Console) -> None:
    found = outcome_of(plan.folder, plan.name, 0, None)
    best = f"best {found.best.accuracy}, epoch {found.best.epoch}"
    console.say(f"{plan.name}: {best}; {found.seconds:.1f} s")


# --- showing --------------------------------------------------------------------------------------


def _shown(folders: Sequence[Path], out: Path | None = None) -> Comparison:
    """Compare what is finished of runs and comparisons; show it in a folder, if one is given."""
    found: list[tuple[Path, Outcome]] = []
    unfinished: list[str] = []
    for folder in folders:
        members = _members(folder)
        for place, name, seed, fold in members:
            if RunFolder(place).summary.exists():
                found.append((place, outcome_of(RunFolder(place), name, seed, fold)))
            else:
                unfinished.append(place.name)
    if not found:
        raise RunFolderError(
            f"no run is finished of {', '.join(unfinished)}", cure="continue one: luthier resume"
        )
    outcomes = tuple(outcome for _, outcome in found)
    comparison = Comparison(
        tuple(standings(outcomes)),
        tuple(differences(outcomes, [_right(RunFolder(path)) for path, _ in found])),
        outcomes,
        tuple(path for path, _ in found),
        None if out is None else RunFolder(out).page,
        tuple(unfinished),
    )
    if comparison.page is not None:
        durable.write_text(comparison.page, page.render_study(_page(comparison)))
    return comparison


def _members(folder: Path) -> list[tuple[Path, str, int, str | None]]:
    if is_study(folder):
        trials = read_study(folder).trials()
        return [(folder / t.name, t.variation, t.seed, t.fold) for t in trials]
    given = recipe.read(RunFolder(folder).recipe)
    return [(folder, folder.resolve().name, given.training.seed or 0, given.data.fold)]


def outcome_of(folder: RunFolder, name: str, seed: int, fold: str | None) -> Outcome:
    """Return what a finished run came to.

    Raises:
        DamagedError: its summary is not as luthier writes it.
    """
    try:
        summary = json.loads(folder.summary.read_bytes())
        best, last = Score.from_dict(summary["best"]), Score.from_dict(summary["last"])
        seconds, learning = float(summary["seconds"]), int(summary["learning"])
        strategy = str(summary["strategy"])
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{folder.summary} is damaged: {error}") from error
    rate = results.images_a_second(report.read_metrics(folder.metrics), strategy)
    size = results.checkpoint_bytes(folder)
    return Outcome(name, seed, fold, best, last, seconds, rate, learning, size)


def _right(folder: RunFolder) -> dict[tuple[str, str], bool]:
    """Return whether the best model has each validation image right; {} where it is not known."""
    with contextlib.suppress(OSError, DamagedError):
        found = predictions.read(folder.predictions)
        inventory = Inventory.from_json(folder.data.read_bytes(), str(folder.data))
        if found.data == inventory.fingerprint:
            return predictions.right(found, inventory)
    return {}


def _page(found: Comparison) -> StudyPage:
    data = recipe.read(RunFolder(found.runs[0]).recipe).data.data
    members = []
    for path, outcome in zip(found.runs, found.outcomes, strict=True):
        folder = RunFolder(path)
        own = quote(f"./{path.name}/{folder.page.name}") if folder.page.exists() else ""
        members.append(Member(outcome, report.read_metrics(folder.metrics), own))
    return StudyPage(
        data=Path(str(data)).name,
        header=COLUMNS,
        standings=tuple(tuple(standing.row()) for standing in found.standings),
        differences=tuple(map(str, found.differences)),
        members=tuple(members),
    )

"""``tune``: measure which settings make a run fast here, in Python as on the command line."""

from __future__ import annotations

import contextlib
import signal
import statistics
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from luthier import devices, recipe, tuning
from luthier.devices import Hold, Terms
from luthier.errors import CommandFailedError, RecipeError
from luthier.files import durable
from luthier.recipe import ENTRIES, Recipe, decided
from luthier.report import Console, breakdown, table, verdict
from luthier.run.trials import Record, TrialFailed, Trials
from luthier.tuning import Facts, Gain, Setting

RESERVE = 0.1  # of the memory, which stays free: validation, saving, and what others take
_FEWEST, _MOST = 2, 5  # rounds of what is compared
_FEWEST_AT_END = 3
_KEPT = 3  # processes at a time
_EXACT = 1 / 16  # of the largest batch, to which it is found
_COMPILATIONS = 3  # in a run: full and last batches, and those of validation, which are cheaper
_GIB = 2**30


@dataclass(frozen=True)
class Tried:
    """A setting that was tried.

    Attributes:
        setting: all of it.
        changed: the fields that it was tried for; empty of the base.
        rate: images a second, the median of its rounds; None where it did not run.
        gain: over the best before it; None of the base and where it did not run.
        peak: most bytes of memory, or None.
        kinds: seconds by kind of work in all rounds.
        outcome: what came of it.
    """

    setting: Setting
    changed: Mapping[str, Any]
    rate: float | None
    gain: Gain | None
    peak: int | None
    kinds: Mapping[str, float]
    outcome: str

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "setting": self.setting.as_dict(),
            "changed": dict(self.changed),
            "images_per_second": self.rate,
            "gain": self.gain and self.gain.as_dict(),
            "peak_memory": self.peak,
            "seconds": dict(self.kinds),
            "outcome": self.outcome,
        }

    def row(self) -> list[str]:
        """Return the cells of the table."""
        named = ", ".join(f"{name} {_plain(value)}" for name, value in self.changed.items())
        waits = breakdown(self.kinds) if self.kinds else ""
        return [
            named or f"as it is: {self.setting}",
            f"{self.rate:.1f}" if self.rate else "",
            str(self.gain or ""),
            f"{self.peak / _GIB:.1f} GiB" if self.peak else "",
            waits,
            self.outcome,
        ]


@dataclass(frozen=True)
class Tuning:
    """What ``tune`` found; ``str`` is a table and what follows from it.

    Attributes:
        recipe: what was asked for, with the best setting in it.
        base: the setting without tuning.
        best: the best one.
        gain: of the best over the base, measured once more at the end; None where they are one.
        tried: each setting, in order.
        notes: what was not tried, and why; what else a reader should know.
        device: where it was measured.
        kinds: seconds by kind of work, at the best setting.
    """

    recipe: Recipe
    base: Setting
    best: Setting
    gain: Gain | None
    tried: tuple[Tried, ...]
    notes: tuple[str, ...]
    device: str
    kinds: Mapping[str, float]

    @property
    def verdict(self) -> str:
        """What a step is bound by at the best setting."""
        return verdict(self.kinds)

    @property
    def flags(self) -> str:
        """The change as flags of ``luthier finetune``."""
        return " ".join(
            _flag(name, value) for name, value in self.best.changed_from(self.base).items()
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "device": self.device,
            "base": self.base.as_dict(),
            "best": self.best.as_dict(),
            "gain": self.gain and self.gain.as_dict(),
            "seconds": dict(self.kinds),
            "verdict": self.verdict,
            "tried": [tried.as_dict() for tried in self.tried],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        header = ["tried", "images/s", "gain", "memory", "where a step goes", ""]
        lines = [table(header, [tried.row() for tried in self.tried]), ""]
        lines += [f"not tried: {note}" for note in self.notes]
        lines += [f"a step: {breakdown(self.kinds)}", self.verdict]
        if self.gain is None:
            return "\n".join([*lines, f"best: as it is ({self.best})"])
        return "\n".join([*lines, f"best: {self.best}, {self.gain} as fast: {self.flags}"])


def tune(
    data: str | Path,
    *,
    out: str | Path | None = None,
    recipe_file: str | Path | None = None,
    console: Console | None = None,
    largest_batch: bool = False,
    round_seconds: float = 2.0,
    trial_seconds: float = 600.0,
    wait: str | float = 0,
    **knobs: Any,
) -> Tuning:
    """Try settings on real training steps, each in a process of its own, and keep the fastest.

    What the recipe or ``knobs`` decide stays. Nothing of the model or the data is changed.

    Args:
        data: as in ``finetune``.
        out: where to write the recipe with the best setting; a new file, or ``recipe_file``.
        recipe_file: a recipe; ``knobs`` go on top.
        console: where to say things; standard error by default.
        largest_batch: say too what the largest batch is that memory takes.
        round_seconds: of training that make one measurement, at least.
        trial_seconds: until a trial that gives no answer is ended.
        wait: for an accelerator, in turn, where others have them all: ``"2h"``, or seconds.
        **knobs: any field of the recipe.

    Raises:
        LuthierError: the recipe cannot be run. CommandFailedError: no setting of it runs here.
    """
    given = _given(data, recipe_file, knobs)
    if out is not None:
        _check_free(Path(out), recipe_file)
    console = console or Console()
    asked = decided(recipe.resolve(given).machine.device)
    with devices.hold(asked, Terms(wait), console.say) as hold:
        found = tuned(
            given,
            console,
            hold,
            largest_batch=largest_batch,
            round_seconds=round_seconds,
            trial_seconds=trial_seconds,
        )
    if out is not None:
        durable.write_text(Path(out), recipe.to_toml(found.recipe))
    return found


def tuned(
    given: Recipe,
    console: Console,
    hold: Hold,
    *,
    largest_batch: bool = False,
    round_seconds: float = 2.0,
    trial_seconds: float = 600.0,
) -> Tuning:
    """Tune a recipe that is not resolved yet: what it leaves open is what is tried.

    Trials run on what is held, which they are shown alone.

    Raises:
        LuthierError, CommandFailedError: see ``tune``.
    """
    if recipe.resolve(given).strategy.strategy == "probe":
        raise RecipeError(
            "there is nothing to tune with --strategy probe: it takes no training steps",
            cure="leave tune out; a probe takes about as long as one epoch of validation",
        )
    memory = devices.memory_allowed()
    budget = None if memory is None else int(memory * (1 - RESERVE))
    tried = given if hold.lease is None else recipe.replace(given, device="cuda")
    with tempfile.TemporaryDirectory(prefix="luthier-tune-") as scratch:
        trials = Trials(tried, Path(scratch), budget, RESERVE, trial_seconds, round_seconds)
        with contextlib.closing(trials), _ending_at_sigterm():
            return _Tuner(given, trials, console).run(largest_batch)


@contextlib.contextmanager
def _ending_at_sigterm() -> Iterator[None]:
    """Let SIGTERM end what is inside as Ctrl-C does: trials and their folder go too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _given(data: str | Path, recipe_file: str | Path | None, knobs: dict[str, Any]) -> Recipe:
    base = recipe.read(Path(recipe_file)) if recipe_file is not None else Recipe()
    return recipe.overlay(base, **knobs, data=str(data))


def _check_free(out: Path, recipe_file: str | Path | None) -> None:
    if out.exists() and (recipe_file is None or not out.samefile(recipe_file)):
        raise RecipeError(f"{out} is there already", cure="give --out a new name")
    if not out.absolute().parent.is_dir():
        raise RecipeError(f"the folder of {out} does not exist")


class _Tuner:
    def __init__(self, given: Recipe, trials: Trials, console: Console) -> None:
        self._given, self._trials, self._console = given, trials, console
        self._tried: list[Tried] = []
        self._notes: list[str] = []

    def run(self, largest_batch: bool) -> Tuning:
        facts = self._trials.first()
        self._console.say(f"tuning on {facts.device}: {facts.setting}")
        base = best = self._base(facts)
        asked = {name for name, value in recipe.values(self._given).items() if _is_asked(value)}
        options = tuning.options_of(facts, asked, devices.cores_allowed())
        self._notes += options.left_out
        self._trials.kept = self._room(facts, base)
        self._measure_base(base)
        for field in options.fields:
            if field == "workers":  # last: how fast images must come depends on the rest
                best = self._larger_batches(best, facts)
            for other in options.settings(field, best):
                best = self._better(best, other, facts)
        gain = self._confirm(base, best)
        if gain is None:
            best = base
        if largest_batch:
            self._largest_batch(best, facts)
        changes = best.changed_from(facts.setting)
        return Tuning(
            recipe=recipe.replace(self._given, **changes),
            base=base,
            best=best,
            gain=gain,
            tried=tuple(self._tried),
            notes=tuple(self._notes),
            device=facts.device,
            kinds=_kinds(self._trials.records[best]),
        )

    def _base(self, facts: Facts) -> Setting:
        """Return the setting that was asked for, or the next one that memory takes."""
        asked = facts.setting
        try:
            peak = self._trials.peak(asked)
            if peak is not None and peak <= facts.memory:
                return asked
            self._note_tried(asked, {}, None, _too_much(peak, facts))
            fits = tuning.largest_that_fits(
                lambda images: self._trials.peak(asked.with_batch(images)),
                [n for n in tuning.divisors(asked.effective_batch) if n < asked.batch_size],
                facts.memory,
                start=asked.batch_size // 2,
            )
        except TrialFailed as failed:
            raise _does_not_run(asked, failed) from failed
        if fits is None:
            raise CommandFailedError(
                f"not even a batch of 1 fits into the {facts.memory / _GIB:.1f} GiB of memory",
                cure="take a smaller --model or --image-size, or --strategy frozen",
            )
        smaller = asked.with_batch(fits)
        self._notes.append(
            f"larger batches than {fits}: memory does not take them. The gradient of a step is that"
            f" of {asked.effective_batch} images still, but BatchNorm sees {fits} at a time"
        )
        return smaller

    def _measure_base(self, base: Setting) -> None:
        try:
            self._trials.measure(base)
        except TrialFailed as failed:
            raise _does_not_run(base, failed) from failed
        self._note_tried(base, {}, None, "")

    def _larger_batches(self, best: Setting, facts: Facts) -> Setting:
        """Try to compute more images at once, for the same steps."""
        sizes = [n for n in tuning.divisors(best.effective_batch) if n >= best.batch_size]
        if len(sizes) == 1:
            return best
        self._trials.kept = 1
        try:
            fits = tuning.largest_that_fits(
                lambda images: self._trials.peak(best.with_batch(images)),
                sizes,
                facts.memory,
                start=2 * best.batch_size,
            )
        except TrialFailed as failed:
            self._notes.append(f"larger batches: one of them failed: {failed}")
            return best
        if fits is None or fits == best.batch_size:
            return best
        self._trials.kept = self._room(facts, best.with_batch(fits))
        return self._better(best, best.with_batch(fits), facts)

    def _largest_batch(self, best: Setting, facts: Facts) -> None:
        asked = best.effective_batch
        self._trials.kept = 1
        try:
            fits = tuning.largest_that_fits(
                lambda n: self._trials.peak(replace(best, batch_size=n, accumulate=1)),
                range(1, max(asked, facts.images) + 1),
                facts.memory,
                start=asked,
                exact=_EXACT,
            )
        except TrialFailed as failed:
            self._notes.append(f"larger batches than {asked}: one of them failed: {failed}")
            return
        self._notes.append(
            f"a larger batch than {asked}, of which memory would take {fits}: it changes what is"
            " learned, and the learning rate that goes with it"
        )

    def _better(self, best: Setting, other: Setting, facts: Facts) -> Setting:
        """Compare two settings and return the better one."""
        changed = other.changed_from(best)
        try:
            gain = self._compare(best, other, _FEWEST)
        except TrialFailed as failed:
            if self._trials.records[best].failed is not None:
                raise _does_not_run(best, failed) from failed
            self._note_tried(other, changed, None, str(failed))
            return best
        outcome = "no gain" if gain.ratio > 1 else "slower"
        if gain.beyond_noise:
            outcome = "taken" if self._pays_back(best, other, facts) else "too long to compile"
        self._note_tried(other, changed, gain, outcome)
        return other if outcome == "taken" else best

    def _pays_back(self, best: Setting, other: Setting, facts: Facts) -> bool:
        before, after = self._trials.records[best], self._trials.records[other]
        extra = _COMPILATIONS * (after.start - before.start) if other.compile else 0.0
        return tuning.pays_back(_rate(before), _rate(after), facts.images * facts.epochs, extra)

    def _confirm(self, base: Setting, best: Setting) -> Gain | None:
        """Measure the best against the base once more; None where nothing is left of its gain.

        What is taken is the best of several, and so partly by luck.
        """
        if best == base:
            return None
        try:
            gain = self._compare(base, best, _FEWEST_AT_END)
        except TrialFailed as failed:
            raise _does_not_run(best, failed) from failed
        taken = gain.beyond_noise
        changed = best.changed_from(base)
        self._note_tried(best, changed, gain, "the best" if taken else "no gain after all")
        return gain if taken else None

    def _compare(self, base: Setting, other: Setting, fewest: int) -> Gain:
        before, beside = [self._trials.measure(base).rate], list[float]()
        while True:
            beside.append(self._trials.measure(other).rate)
            before.append(self._trials.measure(base).rate)
            gain = tuning.gain_of(before, beside)
            if len(beside) == _MOST or (
                tuning.is_decided(gain) and (len(beside) >= fewest or gain.ratio < 1)
            ):
                return gain

    def _room(self, facts: Facts, setting: Setting) -> int:
        """Return how many trials of a size memory takes at a time."""
        peak = max(self._trials.records[setting].peak, 1)
        return max(1, min(_KEPT, facts.memory // peak))

    def _note_tried(
        self, setting: Setting, changed: Mapping[str, Any], gain: Gain | None, outcome: str
    ) -> None:
        record = self._trials.records[setting]
        tried = Tried(
            setting=setting,
            changed=changed,
            rate=_rate(record) if record.rounds else None,
            gain=gain,
            peak=record.peak or None,
            kinds=_kinds(record),
            outcome=outcome,
        )
        self._tried.append(tried)
        self._console.say("  " + ", ".join(cell for cell in tried.row() if cell))


def _is_asked(value: Any) -> bool:
    return value is not None and value != "auto"


def _rate(record: Record) -> float:
    return statistics.median(measured.rate for measured in record.rounds)


def _kinds(record: Record) -> dict[str, float]:
    total: Counter[str] = Counter()
    for measured in record.rounds:
        total.update(measured.kinds)
    return dict(total)


def _too_much(peak: int | None, facts: Facts) -> str:
    return "out of memory" if peak is None else f"more than {facts.memory / _GIB:.1f} GiB"


def _does_not_run(setting: Setting, failed: TrialFailed) -> CommandFailedError:
    return CommandFailedError(
        f"a trial of {setting} failed: {failed}",
        cure="see what luthier finetune says with these settings",
    )


def _plain(value: Any) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def _flag(name: str, value: Any) -> str:
    flag = ENTRIES[name].flag
    if isinstance(value, bool):
        return flag if value else flag.replace("--", "--no-", 1)
    return f"{flag} {value}"

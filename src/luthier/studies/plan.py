"""Which runs a study has."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier import recipe
from luthier.errors import DamagedError, RecipeError
from luthier.recipe import ENTRIES, STRATEGIES, Recipe, decided

STUDY = "study.json"
_FORMAT = 1


@dataclass(frozen=True)
class Trial:
    """One run of a study.

    Attributes:
        variation: what it is an example of, such as a strategy.
        seed: of everything random.
        fold: ``"K/N"``, or None where the data is split as in any other run.
        recipe: as a user would have given it, not resolved.
    """

    variation: str
    seed: int
    fold: str | None
    recipe: Recipe

    @property
    def name(self) -> str:
        """A name for its folder."""
        fold = f"-fold{self.fold.replace('/', 'of')}" if self.fold else ""
        return f"{self.variation}-seed{self.seed}{fold}"


@dataclass(frozen=True)
class Study:
    """The same data by several variations of a recipe, seeds and folds.

    Attributes:
        base: what all have in common.
        variations: by name: the fields of the recipe that differ.
        seeds: how many, from the recipe's own on.
        folds: how many parts of all images are validated on in turn; 1 is no division.
    """

    base: Recipe
    variations: Mapping[str, Mapping[str, Any]]
    seeds: int = 1
    folds: int = 1

    def trials(self) -> tuple[Trial, ...]:
        """Return the runs; those that differ in their variation alone follow each other.

        Raises:
            RecipeError: a run makes no sense, there are too few of something, or a field has no
                effect in any of them.
        """
        for flag, count in (("--seeds", self.seeds), ("--folds", self.folds)):
            if count < 1:
                raise RecipeError(f"{flag} {count}: expected 1 or more")
        if self.folds > 1 and self.base.data.fold is not None:
            raise RecipeError(
                f"--fold {self.base.data.fold} is one part, and --folds {self.folds} asks for all",
                cure="leave one of the two out",
            )
        first = self.base.training.seed or 0
        made = tuple(
            self._trial(name, seed, fold)
            for seed in range(first, first + self.seeds)
            for fold in self._folds()
            for name in self.variations
        )
        for trial in made:
            recipe.resolve(trial.recipe)
        self._check_used(made)
        return made

    def _folds(self) -> list[str | None]:
        if self.folds == 1:
            return [self.base.data.fold]
        return [f"{part}/{self.folds}" for part in range(1, self.folds + 1)]

    def _trial(self, name: str, seed: int, fold: str | None) -> Trial:
        changes = self.variations[name]
        wanted = recipe.overlay(self.base, **{**changes, "seed": seed, "fold": fold})
        return Trial(name, seed, fold, wanted)

    def _check_used(self, made: Sequence[Trial]) -> None:
        used = {name for trial in made for name in recipe.given(trial.recipe)}
        for name, value in recipe.given(self.base).items():
            if name not in used:
                names = ", ".join(self.variations)
                raise RecipeError(f"{ENTRIES[name].title(value)} has no effect with any of {names}")

    def as_dict(self) -> dict[str, Any]:
        """Return the study as plain JSON values."""
        return {
            "format": _FORMAT,
            "recipe": recipe.given(self.base),
            "variations": {name: dict(changes) for name, changes in self.variations.items()},
            "seeds": self.seeds,
            "folds": self.folds,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Study:
        """Return the study that ``as_dict`` described.

        Raises:
            RecipeError, KeyError, TypeError, ValueError: it describes none.
        """
        if value["format"] != _FORMAT:
            raise ValueError(f"format {value['format']!r}, expected {_FORMAT}")
        base = recipe.replace(Recipe(), **value["recipe"])
        return cls(base, dict(value["variations"]), int(value["seeds"]), int(value["folds"]))


def variations_of(
    base: Recipe, named: Sequence[str], files: Mapping[str, Recipe]
) -> dict[str, dict[str, Any]]:
    """Return the variations that names stand for: strategies, or recipes.

    Args:
        base: what all have in common.
        named: as they were given; none is the one of the base.
        files: those of the names that are files, read.

    Raises:
        RecipeError: a name is neither, or comes twice.
    """
    if not named:
        return {decided(recipe.resolve(base).strategy.strategy): {}}
    found: dict[str, dict[str, Any]] = {}
    for name in named:
        if name in files:
            short, changes = _stem(name), recipe.given(files[name])
        elif name in STRATEGIES:
            short, changes = name, {"strategy": name}
        else:
            known = ", ".join(STRATEGIES)
            raise RecipeError(
                f"--strategies: {name!r} is neither a strategy nor a file of a recipe",
                cure=f"strategies are: {known}; a recipe is a .toml file",
            )
        if short in found:
            raise RecipeError(f"--strategies names {short!r} twice")
        found[short] = changes
    return found


def is_study(folder: Path) -> bool:
    """Tell whether a folder is that of a study."""
    return (folder / STUDY).is_file()


def read_study(folder: Path) -> Study:
    """Read what a study was asked for.

    Raises:
        DamagedError: its file is not as luthier writes it.
    """
    path = folder / STUDY
    try:
        return Study.from_dict(json.loads(path.read_bytes()))
    except (RecipeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(
            f"{path} is damaged: {error}", cure="bring it back from a copy, or start anew"
        ) from error


def _stem(name: str) -> str:
    return name.rpartition("/")[2].removesuffix(".toml")

"""The data of a loop: from what a body gives to ``batches`` in each epoch to loaders that stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from luthier import checkpoint, data
from luthier.checkpoint import Captured, Saved, Stateful
from luthier.run.tracked import DATA

_LOOSE = 2  # loaders whose workers stay: of data sets that take turns


@dataclass(frozen=True)
class _Known:
    name: str
    source: Any  # kept, so that its id stays its own
    settings: Mapping[str, Any]
    batches: data.KeyedBatches


class DataSources:
    """The loaders of a run. Those that have a position are state.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._known: dict[int, _Known] = {}
        self._positions: dict[str, Saved] = {}

    def batches(self, source: Any, settings: Mapping[str, Any]) -> data.KeyedBatches:
        """Return the loader of a data set or ``DataLoader``.

        Args:
            source: see ``data.keyed_batches``.
            settings: likewise; None is as if not given.
        """
        given = {name: value for name, value in settings.items() if value is not None}
        known = self._known.pop(id(source), None)
        if known is not None and known.settings != given:
            known.batches.close()
            known = None
        if known is None:
            known = self._new(source, given)
        self._known[id(source)] = known  # the newest is the last
        self._end_loose(_LOOSE)
        return known.batches

    def _new(self, source: Any, settings: Mapping[str, Any]) -> _Known:
        batches = data.keyed_batches(source, seed=self._seed, **settings)
        name = f"{DATA}-{len(self._positioned()) + 1}"
        if isinstance(batches, Stateful) and name in self._positions:
            checkpoint.restore_stateful(batches, self._positions.pop(name))
        return _Known(name, source, settings, batches)

    def _positioned(self) -> dict[str, Stateful]:
        known = self._known.values()
        return {one.name: one.batches for one in known if isinstance(one.batches, Stateful)}

    def _end_loose(self, keep: int) -> None:
        # A body may make a data set anew in every epoch; what has a position is state and stays.
        loose = [i for i, one in self._known.items() if not isinstance(one.batches, Stateful)]
        for index in loose[: max(0, len(loose) - keep)]:
            self._known.pop(index).batches.close()

    def capture(self) -> dict[str, Captured]:
        """Return the positions, by name."""
        positioned = self._positioned().items()
        return {name: checkpoint.capture_stateful(batches, name) for name, batches in positioned}

    def restore(self, parts: Mapping[str, Saved]) -> None:
        """Keep the positions of a checkpoint for the data to come."""
        self._positions = {n: saved for n, saved in parts.items() if n.startswith(f"{DATA}-")}

    def close(self) -> None:
        """End all workers."""
        while self._known:
            self._known.popitem()[1].batches.close()

"""The data of a loop: from what a body gives to ``batches`` in each epoch to loaders that stay."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from luthier import checkpoint, data
from luthier.checkpoint import Captured, Saved
from luthier.distributed import Share
from luthier.errors import DataError
from luthier.run.tracked import DATA

_LOOSE = 2  # loaders whose workers stay: of data sets that take turns


@dataclass(frozen=True)
class _Known:
    source: Any  # kept, so that its id stays its own
    settings: Mapping[str, Any]
    batches: data.KeyedBatches


class DataSources:
    """The loaders of a run. Those that have a position are state.

    Nothing tells two of these apart after a resume: their order of use may be another then. So
    there may be one, and any number that is tracked by name.

    Args:
        seed: of the run.
        is_tracked: tells whether an object's state is kept by a name already.
        share: what this one of several processes has of each batch.
    """

    def __init__(self, seed: int, is_tracked: Callable[[object], bool], share: Share) -> None:
        self._seed, self._is_tracked, self._share = seed, is_tracked, share
        self._known: dict[int, _Known] = {}
        self._positioned: data.StatefulBatches | None = None
        self._position: Saved | None = None

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
            if known.batches is self._positioned:
                self._positioned = None
            known = None
        if known is None:
            known = self._new(source, given)
        self._known[id(source)] = known  # the newest is the last
        self._end_loose(_LOOSE)
        return known.batches

    def _new(self, source: Any, settings: Mapping[str, Any]) -> _Known:
        batches = data.keyed_batches(source, seed=self._seed, share=self._share, **settings)
        known = _Known(source, settings, batches)
        if isinstance(batches, data.StatefulBatches) and not self._is_tracked(batches.positioned):
            self._check_only(batches)
            if self._position is not None:
                checkpoint.restore_stateful(batches, self._position)
                self._position = None
        return known

    def _check_only(self, batches: data.StatefulBatches) -> None:
        if self._positioned is not None:
            kind = type(batches.positioned).__qualname__
            raise DataError(
                f"a second {kind} with a position of its own: after a resume nothing would tell"
                " it from the first",
                cure="use the same object in every epoch; where there are two, call"
                " run.track(first=…, second=…) before the loop, so that each has a name",
            )
        self._positioned = batches

    def _end_loose(self, keep: int) -> None:
        # A body may make a data set anew in every epoch; what has a position is state and stays.
        loose = [
            i for i, one in self._known.items() if not isinstance(one.batches, data.StatefulBatches)
        ]
        for index in loose[: max(0, len(loose) - keep)]:
            self._known.pop(index).batches.close()

    def capture(self) -> dict[str, Captured]:
        """Return the position that has no other name."""
        if self._positioned is None:
            return {}
        return {DATA: checkpoint.capture_stateful(self._positioned, DATA)}

    def restore(self, parts: Mapping[str, Saved]) -> None:
        """Keep the position of a checkpoint for the data to come."""
        self._position = parts.get(DATA)

    def close(self) -> None:
        """End all workers."""
        while self._known:
            self._known.popitem()[1].batches.close()

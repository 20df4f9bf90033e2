"""When a run is saved, and that it is: one rule for luthier's loop and for anyone's."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Protocol

from luthier.checkpoint import Costs, Saver, State
from luthier.recipe import Interval
from luthier.values import Position


class Asked(Protocol):
    """Knows whether a run is to stop."""

    @property
    def asked(self) -> bool:
        """Whether it is."""
        ...


class Cadence:
    """Tells when the next save is due.

    Args:
        every: epochs, steps, minutes, or the part of the run's time that saves may take.
        costs: of the saves so far.
    """

    def __init__(self, every: Interval, costs: Costs) -> None:
        self._every, self._costs = every, costs
        self._last = time.monotonic()
        self._spent = 0.0
        self._begun = costs.saves

    def due(self, at: Position) -> bool:
        """Tell whether a save is due where the run stands."""
        count, unit = self._every.count, self._every.unit
        if unit == "steps":
            return at.step % count == 0
        if unit == "epochs":
            return at.batch == 0 and at.epoch % count == 0
        waited = time.monotonic() - self._last
        if unit == "minutes":
            return waited >= 60 * count
        if self._costs.saves < self._begun:  # the cost of the last is not known yet
            return False
        return waited >= (self._total() - self._spent) / (count / 100)

    def _total(self) -> float:
        # Work on the writing thread costs training the core that it takes, not the machine.
        return self._costs.blocked + self._costs.behind / (os.cpu_count() or 1)

    def saving(self) -> None:
        """Take note that a save begins."""
        self._last, self._spent = time.monotonic(), self._total()
        self._begun = self._costs.saves + 1


class Keeper:
    """Saves a run when it is due, and when it is asked to stop.

    Args:
        saver: of the run's checkpoints.
        every: how often.
        stop: is set by a signal.
        capture: returns the run's state at this moment.
        agree: returns what the first process says, where all have a part in a save.
    """

    def __init__(
        self,
        saver: Saver,
        every: Interval,
        stop: Asked,
        capture: Callable[[], State],
        agree: Callable[[bool], bool] = bool,
    ) -> None:
        self.saver, self._stop, self._capture, self._agree = saver, stop, capture, agree
        self._cadence = Cadence(every, saver.costs)

    def boundary(self, at: Position, *, worth: bool = False) -> bool:
        """Save where the run stands, if it is due; to be called when a step is complete.

        Args:
            at: where the run stands.
            worth: save in any case.

        Returns:
            whether the run is asked to stop; its state is on the disk then.

        Raises:
            CannotWriteError, LuthierError: a save behind has failed.
        """
        self.saver.check()
        if self._stop.asked:
            self.save()
            return True
        if self._agree(self.saver.was_torn() or worth or self._cadence.due(at)):
            self._begin()
        return False

    def save(self) -> None:
        """Save now, and wait until it is on the disk.

        Raises:
            CannotWriteError, LuthierError: it failed.
        """
        self._begin()
        self.saver.wait()
        if self.saver.was_torn():
            self.save()

    def _begin(self) -> None:
        self._cadence.saving()
        self.saver.save(self._capture())

"""The records of a run as TensorBoard shows them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from luthier.errors import missing_extra

try:
    from torch.utils.tensorboard import SummaryWriter
except ModuleNotFoundError:
    raise missing_extra("tensorboard", "tensorboard", "--log tensorboard") from None

_SHOWN = ("loss", "accuracy", "lr")
_FLUSH = 1  # seconds; what is not on the disk yet is lost in a kill


class TensorBoard:
    """Writes scalars ``NAME/KIND`` over the iteration, and the recipe as text."""

    def begin(self, run: Path, recipe: dict[str, Any], iteration: int) -> None:
        """Begin a file of events that hides what files before it have from this iteration on."""
        place = run / "tensorboard"
        is_new = not place.exists()
        self._events = SummaryWriter(str(place), purge_step=iteration, flush_secs=_FLUSH)
        rows = "\n".join(f"| {name} | {value} |" for name, value in recipe.items())
        self._events.add_text("recipe", f"| field | value |\n| --- | --- |\n{rows}", iteration)
        if is_new:  # and the run perhaps is not: it may have come from another machine
            for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
                record = json.loads(line)
                if record["iteration"] < iteration:  # what comes after is given
                    self.write(record)

    def write(self, record: dict[str, Any]) -> None:
        """Add what a record has to show."""
        for name in _SHOWN:
            if name in record:
                tag = f"{name}/{record['kind']}"
                self._events.add_scalar(tag, record[name], record["iteration"])
        if record["kind"] != "step":  # before the checkpoint of an epoch has its name, as a rule
            self._events.flush()

    def close(self) -> None:
        """Write what is left."""
        self._events.close()

"""Metrics in trackio, on this machine: luthier finetune DATA --log examples.log_trackio:Writer

Look at them with: trackio show --project luthier
"""

import trackio
from trackio.sqlite_storage import SQLiteStorage


class Writer:
    def begin(self, run, recipe, iteration):
        there = SQLiteStorage.get_logs("luthier", str(run))  # nothing, for a new run
        self.seen = {(name, row["step"]) for row in there for name in row}
        self.run = trackio.init("luthier", str(run), config=recipe, resume="allow", embed=False)

    def write(self, record):
        kind, step = record["kind"], record["iteration"]
        shown = {f"{n}/{kind}": record[n] for n in ("loss", "accuracy", "lr") if n in record}
        new = {name: value for name, value in shown.items() if (name, step) not in self.seen}
        if new:
            self.run.log(new, step=step)

    def close(self):
        self.run.finish()

"""Metrics in Weights & Biases: luthier finetune DATA --log examples.log_wandb:Writer

Where to is its own: WANDB_PROJECT, WANDB_MODE, WANDB_BASE_URL.
"""

import uuid

import wandb


class Writer:
    def begin(self, run, recipe, iteration):
        kept = run / "wandb.txt"  # the run's name over there
        if not kept.exists():
            kept.write_text(uuid.uuid4().hex)
        self.run = wandb.init(
            id=kept.read_text(), resume="allow", name=run.name, config=recipe, dir=run
        )

    def write(self, record):
        kind = record["kind"]
        shown = {f"{n}/{kind}": record[n] for n in ("loss", "accuracy", "lr") if n in record}
        self.run.log(shown, step=record["iteration"])  # W&B leaves out what it has of a step

    def close(self):
        self.run.finish()

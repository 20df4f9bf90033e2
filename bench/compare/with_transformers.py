"""Hugging Face's Trainer."""

import numpy as np
import torch
from job import WORKERS, Job, Watch, asked, falling, photos, sgd, start
from torch import nn
from torch.nn import functional as F
from transformers import EvalPrediction, Trainer, TrainerCallback, TrainingArguments


class Classifier(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.model(pixel_values)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


class Seconds(TrainerCallback):
    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def on_epoch_begin(self, *_: object, **__: object) -> None:
        self.watch.start("train")

    def on_epoch_end(self, *_: object, **__: object) -> None:
        self.watch.stop("train")
        self.watch.start("val")

    def on_evaluate(self, *_: object, **__: object) -> None:
        self.watch.stop("val")


def collate(samples: list[tuple[torch.Tensor, int]]) -> dict[str, torch.Tensor]:
    images, labels = zip(*samples, strict=True)
    return {"pixel_values": torch.stack(images), "labels": torch.tensor(labels)}


def accuracy(found: EvalPrediction) -> dict[str, float]:
    return {"accuracy": float(np.mean(found.predictions.argmax(-1) == found.label_ids))}


def main(job: Job) -> None:
    watch = Watch()
    learn, look = photos(job)
    model = start(job, len(learn.classes))
    optimizer = sgd(model)
    scheduler = falling(optimizer)
    scheduler.step_size *= -(-len(learn) // job.batch_size)  # the Trainer calls it every step
    arguments = TrainingArguments(
        output_dir=str(job.out / "trainer"),
        num_train_epochs=job.epochs,
        per_device_train_batch_size=job.batch_size,
        per_device_eval_batch_size=job.batch_size,
        dataloader_num_workers=WORKERS,
        eval_strategy="epoch",
        remove_unused_columns=False,
        report_to="none",
        seed=job.seed,
    )
    trainer = Trainer(
        Classifier(model),
        arguments,
        data_collator=collate,
        train_dataset=learn,
        eval_dataset=look,
        compute_metrics=accuracy,
        optimizers=(optimizer, scheduler),
        callbacks=[Seconds(watch)],
    )
    trainer.train()
    trainer.save_model(str(job.out / "model"))
    last = [r["eval_accuracy"] for r in trainer.state.log_history if "eval_accuracy" in r][-1]
    watch.report(len(learn), last)


if __name__ == "__main__":
    main(asked()[0])

"""Ignite: supervised trainer and evaluator."""

import torch
from ignite.engine import Engine, Events, create_supervised_evaluator, create_supervised_trainer
from ignite.handlers import Checkpoint, DiskSaver, LRScheduler
from ignite.metrics import Accuracy, Loss
from job import WORKERS, Job, Watch, asked, falling, photos, sgd, start
from torch import nn
from torch.utils.data import DataLoader


def main(job: Job) -> None:
    watch = Watch()
    learn, look = photos(job)
    train = DataLoader(learn, job.batch_size, shuffle=True, num_workers=WORKERS)
    val = DataLoader(look, job.batch_size, num_workers=WORKERS)
    model = start(job, len(learn.classes))
    criterion = nn.CrossEntropyLoss()
    optimizer = sgd(model)
    metrics = {"accuracy": Accuracy(), "loss": Loss(criterion)}
    trainer = create_supervised_trainer(model, optimizer, criterion, device=job.device)
    evaluator = create_supervised_evaluator(model, metrics=metrics, device=job.device)

    @trainer.on(Events.EPOCH_STARTED)
    def begin(_engine: Engine) -> None:
        watch.start("train")

    @trainer.on(Events.EPOCH_COMPLETED)
    def validate(engine: Engine) -> None:
        watch.stop("train")
        with watch.of("val"):
            evaluator.run(val)
        print(f"epoch {engine.state.epoch}: {evaluator.state.metrics}")

    trainer.add_event_handler(Events.EPOCH_COMPLETED, LRScheduler(falling(optimizer)))
    trainer.add_event_handler(
        Events.EPOCH_COMPLETED, Checkpoint({"model": model}, DiskSaver(str(job.out)), n_saved=1)
    )
    trainer.run(train, max_epochs=job.epochs)
    torch.save(model.state_dict(), job.out / "model.pt")
    watch.report(len(learn), evaluator.state.metrics["accuracy"])


if __name__ == "__main__":
    main(asked()[0])

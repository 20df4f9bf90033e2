"""Lightning: a LightningModule, and a Trainer with its defaults."""

from job import WORKERS, Job, Watch, asked, falling, photos, sgd, start

# It loads torchvision where that needs help, and so comes first.
# isort: split
import lightning
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader


class Classifier(lightning.LightningModule):
    def __init__(self, job: Job, classes: int) -> None:
        super().__init__()
        self.model = start(job, classes)

    def training_step(self, batch: list[torch.Tensor], _number: int) -> torch.Tensor:
        images, labels = batch
        loss = F.cross_entropy(self.model(images), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[torch.Tensor], _number: int) -> None:
        images, labels = batch
        outputs = self.model(images)
        self.log("val_loss", F.cross_entropy(outputs, labels))
        self.log("val_accuracy", (outputs.argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> tuple[list[object], list[object]]:
        optimizer = sgd(self.model)
        return [optimizer], [falling(optimizer)]


class Seconds(lightning.Callback):
    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def on_train_epoch_start(self, *_: object) -> None:
        self.watch.start("train")  # of the first epoch, the workers run already: to its advantage

    def on_validation_start(self, trainer: lightning.Trainer, *_: object) -> None:
        if not trainer.sanity_checking:  # validation is a part of Lightning's training epoch
            self.watch.stop("train")
            self.watch.start("val")

    def on_validation_end(self, *_: object) -> None:
        self.watch.stop("val")


def main(job: Job) -> None:
    watch = Watch()
    learn, look = photos(job)
    trainer = lightning.Trainer(
        max_epochs=job.epochs, default_root_dir=job.out, callbacks=[Seconds(watch)]
    )
    model = Classifier(job, len(learn.classes))
    trainer.fit(
        model,
        DataLoader(learn, job.batch_size, shuffle=True, num_workers=WORKERS),
        DataLoader(look, job.batch_size, num_workers=WORKERS),
    )
    torch.save(model.model.state_dict(), job.out / "model.pt")
    watch.report(len(learn), float(trainer.callback_metrics["val_accuracy"]))


if __name__ == "__main__":
    main(asked()[0])

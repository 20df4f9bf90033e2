"""fastai: DataLoaders from a folder, and a Learner."""

from functools import partial

from job import LR, MEAN, MOMENTUM, STD, WORKERS, Job, Watch, asked, start

# It loads torchvision where that needs help, and so comes first.
# isort: split
import torch
from fastai.vision.all import (
    Callback,
    FlipItem,
    ImageDataLoaders,
    Learner,
    Normalize,
    OptimWrapper,
    RandomResizedCrop,
    accuracy,
    set_seed,
)
from torch import nn


class Seconds(Callback):
    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def before_train(self) -> None:
        self.watch.start("train")

    def after_train(self) -> None:
        self.watch.stop("train")

    def before_validate(self) -> None:
        self.watch.start("val")

    def after_validate(self) -> None:
        self.watch.stop("val")


def main(job: Job) -> None:
    watch = Watch()
    set_seed(job.seed)
    loaders = ImageDataLoaders.from_folder(
        job.data,
        train="train",
        valid="val",
        item_tfms=[RandomResizedCrop(224, min_scale=0.08), FlipItem()],
        batch_tfms=[Normalize.from_stats(MEAN, STD)],
        bs=job.batch_size,
        num_workers=WORKERS,
        device=torch.device(job.device),
    )
    learner = Learner(
        loaders,
        start(job, len(loaders.vocab)),
        loss_func=nn.CrossEntropyLoss(),
        opt_func=partial(OptimWrapper, opt=torch.optim.SGD, momentum=MOMENTUM),
        lr=LR,
        metrics=accuracy,
        path=job.out,
        cbs=Seconds(watch),
    )
    learner.fit(job.epochs)
    learner.save("model")
    # Its loader leaves the incomplete last batch of an epoch out.
    images = len(loaders.train) * job.batch_size
    watch.report(images, float(learner.recorder.values[-1][-1]))


if __name__ == "__main__":
    main(asked()[0])

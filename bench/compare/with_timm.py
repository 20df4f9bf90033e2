"""timm: its data sets, loaders, optimizer and schedule around the loop of its train.py."""

import torch
from job import FALL, FALL_EVERY, LR, MEAN, MOMENTUM, STD, WORKERS, Job, Watch, asked, start
from timm.data import create_dataset, create_loader
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter, accuracy
from torch import nn


def main(job: Job) -> None:
    watch = Watch()
    train, val = (create_dataset("", str(job.data), split=split) for split in ("train", "val"))
    shape = {"input_size": (3, 224, 224), "batch_size": job.batch_size, "mean": MEAN, "std": STD}
    shape |= {"use_prefetcher": job.device == "cuda", "device": torch.device(job.device)}
    shape |= {"num_workers": WORKERS, "interpolation": "bilinear"}
    learn = create_loader(
        train, is_training=True, scale=[0.08, 1.0], hflip=0.5, color_jitter=None, **shape
    )
    look = create_loader(val, is_training=False, crop_pct=0.875, **shape)
    model = start(job, len(train.reader.class_to_idx))
    optimizer = create_optimizer_v2(model, opt="sgd", lr=LR, momentum=MOMENTUM, weight_decay=0)
    scheduler, _epochs = create_scheduler_v2(
        optimizer, sched="step", num_epochs=job.epochs, decay_epochs=FALL_EVERY, decay_rate=FALL
    )
    criterion = nn.CrossEntropyLoss()
    for epoch in range(job.epochs):
        with watch.of("train"):
            model.train()
            losses = AverageMeter()
            for images, labels in learn:
                inputs, targets = images.to(job.device), labels.to(job.device)
                optimizer.zero_grad()
                loss = criterion(model(inputs), targets)
                loss.backward()
                optimizer.step()
                losses.update(loss.item(), inputs.size(0))
        with watch.of("val"), torch.no_grad():
            model.eval()
            top1 = AverageMeter()
            for images, labels in look:
                inputs, targets = images.to(job.device), labels.to(job.device)
                (right,) = accuracy(model(inputs), targets, topk=(1,))
                top1.update(right.item(), inputs.size(0))
        scheduler.step(epoch + 1)
        print(f"epoch {epoch} loss {losses.avg:.4f} accuracy {top1.avg:.2f} %")
    torch.save(model.state_dict(), job.out / "model.pt")
    # Its training loader leaves the incomplete last batch of an epoch out.
    watch.report(len(learn) * job.batch_size, top1.avg / 100)


if __name__ == "__main__":
    main(asked()[0])

"""Accelerate: the plain loop with what its guide changes in it."""

import torch
from accelerate import Accelerator
from job import WORKERS, Job, Watch, asked, falling, photos, sgd, start
from torch import nn
from torch.utils.data import DataLoader


def main(job: Job) -> None:
    watch = Watch()
    accelerator = Accelerator()
    learn, look = photos(job)
    model = start(job, len(learn.classes))
    optimizer = sgd(model)
    model, optimizer, train, val, scheduler = accelerator.prepare(
        model,
        optimizer,
        DataLoader(learn, job.batch_size, shuffle=True, num_workers=WORKERS),
        DataLoader(look, job.batch_size, num_workers=WORKERS),
        falling(optimizer),
    )
    criterion = nn.CrossEntropyLoss()
    for _epoch in range(job.epochs):
        with watch.of("train"):
            model.train()
            for images, labels in train:
                optimizer.zero_grad()
                loss = criterion(model(images), labels)
                accelerator.backward(loss)
                optimizer.step()
            scheduler.step()
        with watch.of("val"):
            model.eval()
            correct = 0
            for images, labels in val:
                with torch.no_grad():
                    outputs = model(images)
                predictions, references = accelerator.gather_for_metrics(
                    (outputs.argmax(1), labels)
                )
                correct += int((predictions == references).sum())
    accelerator.save_model(model, str(job.out / "model"))
    watch.report(len(learn), correct / len(look))


if __name__ == "__main__":
    main(asked()[0])

"""The loop of PyTorch's transfer-learning tutorial."""

import torch
from job import WORKERS, Job, Watch, asked, falling, photos, sgd, start
from torch import nn
from torch.utils.data import DataLoader


def main(job: Job) -> None:
    watch = Watch()
    sets = dict(zip(("train", "val"), photos(job), strict=True))
    loaders = {
        phase: DataLoader(found, batch_size=job.batch_size, shuffle=True, num_workers=WORKERS)
        for phase, found in sets.items()
    }
    model = start(job, len(sets["train"].classes))
    criterion = nn.CrossEntropyLoss()
    optimizer = sgd(model)
    scheduler = falling(optimizer)
    file = job.out / "model.pt"
    torch.save(model.state_dict(), file)
    best = accuracy = 0.0
    for epoch in range(job.epochs):
        for phase in ("train", "val"):
            watch.start(phase)
            model.train(phase == "train")
            running_loss, running_corrects = 0.0, 0
            for images, labels in loaders[phase]:
                inputs, targets = images.to(job.device), labels.to(job.device)
                optimizer.zero_grad()
                with torch.set_grad_enabled(phase == "train"):
                    outputs = model(inputs)
                    predictions = outputs.argmax(1)
                    loss = criterion(outputs, targets)
                    if phase == "train":
                        loss.backward()
                        optimizer.step()
                running_loss += loss.item() * inputs.size(0)
                running_corrects += int(torch.sum(predictions == targets.data))
            if phase == "train":
                scheduler.step()
            watch.stop(phase)
            loss_of_all = running_loss / len(sets[phase])
            accuracy = running_corrects / len(sets[phase])
            print(f"epoch {epoch} {phase} loss {loss_of_all:.4f} accuracy {accuracy:.4f}")
        if accuracy > best:
            best = accuracy
            torch.save(model.state_dict(), file)
    watch.report(len(sets["train"]), accuracy, best=best)


if __name__ == "__main__":
    main(asked()[0])

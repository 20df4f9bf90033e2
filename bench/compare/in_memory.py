"""The limit: the same training steps on one batch that is in memory already. No data, no files."""

import argparse

import torch
from job import Job, Watch, asked, photos, sgd, start
from torch import nn

from luthier import devices


def main(job: Job, precision: str) -> None:
    devices.keep_freed_memory()  # as luthier does: without it the limit is lower
    watch = Watch()
    data, _val = photos(job)
    model = start(job, len(data.classes)).to(memory_format=torch.channels_last).train()
    optimizer = sgd(model)
    criterion = nn.CrossEntropyLoss()
    images = torch.randn(job.batch_size, 3, 224, 224, device=job.device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.arange(job.batch_size, device=job.device) % len(data.classes)
    last = len(data) % job.batch_size
    sizes = [job.batch_size] * (len(data) // job.batch_size) + [last] * (last > 0)

    def step(size: int) -> torch.Tensor:
        with torch.autocast(job.device, torch.bfloat16, enabled=precision == "bf16"):
            loss = criterion(model(images[:size]), labels[:size])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    for size in set(sizes):  # kernels are chosen at the first step of a size
        step(size)
    for _epoch in range(job.epochs):
        with watch.of("train"):
            for size in sizes:
                loss = step(size)
            loss.item()  # an accelerator is done only now
    watch.report(len(data), None, precision=precision)


if __name__ == "__main__":
    job, rest = asked()
    parser = argparse.ArgumentParser()
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    main(job, parser.parse_args(rest).precision)

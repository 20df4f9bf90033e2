"""A plain training loop. The five lines marked with # luthier make it exactly resumable.

    python examples/plain.py runs/plain 20

Stop it with Ctrl-C or ``kill -9``, start it again, and it goes on to the same bits.
"""

import sys

import torch
from torch import nn
from torch.utils.data import Dataset

import luthier  # luthier


class Squares(Dataset[tuple[torch.Tensor, int]]):
    """Noisy images of a bright square, on the left or on the right, flipped at random."""

    def __len__(self) -> int:
        return 200

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = 3 * torch.randn(1, 16, 16)
        label = index % 2
        image[:, 4:12, 8 * label : 8 * label + 8] += 1
        if torch.rand(()) < 0.5:
            image = image.flip(1)
        return image, label


def main(folder: str, epochs: int) -> None:
    torch.manual_seed(0)
    data = Squares()
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2),
        nn.Linear(8 * 14 * 14, 2),
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=epochs * 13)
    run = luthier.Run(folder, model=model, optimizer=optimizer, scheduler=scheduler)  # luthier
    for _epoch in run.epochs(epochs):  # luthier
        for images, labels in run.batches(data, 16, shuffle=True, num_workers=2):  # luthier
            loss = nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
        run.log(loss=loss)  # luthier


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

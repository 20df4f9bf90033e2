"""Gradients of four batches make one step. Lines marked with # luthier make it resumable.

The data comes from a DataLoader as it always did; a run that is interrupted between two steps
keeps the gradients that have accumulated. ``run.at.batch`` is where an epoch goes on.

    python examples/accumulation.py runs/accumulation 50

Stop it with Ctrl-C or ``kill -9``, start it again, and it goes on to the same bits.
"""

import sys

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import luthier  # luthier

BATCHES = 4  # a step


class Waves(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Sines of a random phase, drawn with numpy, and their frequencies."""

    def __len__(self) -> int:
        return 96

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        frequency = 1 + index / 96
        phase = np.random.uniform(0, 2 * np.pi)
        wave = np.sin(np.linspace(0, 4 * np.pi, 32) * frequency + phase)
        return torch.from_numpy(wave).float(), torch.tensor([frequency])


def main(folder: str, epochs: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1)
    loader = DataLoader(Waves(), batch_size=8, shuffle=True, num_workers=1, persistent_workers=True)
    run = luthier.Run(folder, model=model, optimizer=optimizer, scheduler=scheduler)  # luthier
    for _epoch in run.epochs(epochs):  # luthier
        for number, (waves, frequencies) in enumerate(run.batches(loader), run.at.batch):  # luthier
            loss = nn.functional.mse_loss(model(waves), frequencies)
            (loss / BATCHES).backward()
            if number % BATCHES == BATCHES - 1:
                optimizer.step()
                optimizer.zero_grad()
        scheduler.step(loss.item())
        run.log(loss=loss, lr=optimizer.param_groups[0]["lr"])  # luthier


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

"""Mixed precision with a GradScaler. Lines marked with # luthier make it resumable.

    python examples/amp.py runs/amp 50

Stop it with Ctrl-C or ``kill -9``, start it again, and it goes on to the same bits.
"""

import sys

import torch
from torch import nn
from torch.utils.data import TensorDataset

import luthier  # luthier


def main(folder: str, epochs: int) -> None:
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = TensorDataset(torch.randn(128, 8), torch.randint(0, 3, (128,)))
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 3)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler(device, growth_interval=7)
    run = luthier.Run(folder, model=model, optimizer=optimizer, scaler=scaler)  # luthier
    for _epoch in run.epochs(epochs):  # luthier
        for inputs, labels in run.batches(data, batch_size=16, shuffle=True):  # luthier
            with torch.autocast(device, torch.bfloat16):
                scores = model(inputs.to(device))
            loss = nn.functional.cross_entropy(scores.float(), labels.to(device))
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        run.log(loss=loss, scale=scaler.get_scale())  # luthier


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

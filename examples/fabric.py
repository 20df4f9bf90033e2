"""A Lightning Fabric loop. Lines marked with # luthier make it resumable.

Needs lightning-fabric. What ``fabric.setup`` returns is given to Run as it is.

    python examples/fabric.py runs/fabric 50

Stop it with Ctrl-C or ``kill -9``, start it again, and it goes on to the same bits.
"""

import sys

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.utils.data import TensorDataset

import luthier  # luthier


def main(folder: str, epochs: int) -> None:
    torch.manual_seed(0)
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    data = TensorDataset(torch.randn(128, 8), torch.randint(0, 3, (128,)))
    net = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3))
    adam = torch.optim.Adam(net.parameters(), lr=1e-3)
    model, optimizer = fabric.setup(net, adam)
    run = luthier.Run(folder, model=model, optimizer=optimizer)  # luthier
    for _epoch in run.epochs(epochs):  # luthier
        for inputs, labels in run.batches(data, batch_size=16, shuffle=True):  # luthier
            loss = nn.functional.cross_entropy(model(inputs), labels)
            optimizer.zero_grad()
            fabric.backward(loss)
            optimizer.step()
        run.log(loss=loss)  # luthier


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

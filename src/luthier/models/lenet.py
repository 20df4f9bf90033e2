"""The classic LeNet, which ``luthier demo`` trains."""

from __future__ import annotations

import torch
from torch import nn


class LeNet(nn.Module):
    """LeNet-5 (LeCun et al. 1998) as it is taught today: ReLU and max pooling.

    Two 5 x 5 convolutions of 6 and 16 channels, then 120, 84 and ``num_classes`` units.
    Input: ``[batch, 3, 32, 32]``; output: ``[batch, num_classes]``.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the class scores."""
        x = torch.max_pool2d(torch.relu(self.conv1(images)), 2)
        x = torch.max_pool2d(torch.relu(self.conv2(x)), 2)
        x = torch.relu(self.fc1(x.flatten(1)))
        x = torch.relu(self.fc2(x))
        scores: torch.Tensor = self.fc3(x)
        return scores

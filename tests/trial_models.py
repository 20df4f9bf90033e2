"""Models that end a trial in one of the ways in which trials end."""

from __future__ import annotations

import os
import signal
import threading
import time

import torch
from torch import nn

from luthier.models.lenet import LeNet


def _has_images(images: torch.Tensor) -> bool:
    return len(images) > 2  # not the two with which a head is looked for


class Killed(LeNet):
    """As by a system that has run out of memory."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if _has_images(images):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(images)


class Slow(LeNet):
    """Takes its time, so that things can happen meanwhile."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if _has_images(images):
            time.sleep(0.04)
        return super().forward(images)


class Hangs(LeNet):
    """Waits for what never comes."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if _has_images(images):
            threading.Event().wait()
        return super().forward(images)


class StuckInBackward(LeNet):
    """One process, which is named by TRIAL_STUCK, never ends its second backward pass."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.steps = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores = super().forward(images)
        if _has_images(images) and scores.requires_grad:
            self.steps += 1
            if self.steps == 2 and os.environ["RANK"] == os.environ["TRIAL_STUCK"]:
                scores.register_hook(goes_round_for_ever)
        return scores


def goes_round_for_ever(*_facts: object) -> None:
    while True:
        pass


class Crashes(LeNet):
    """Has a mistake in it."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if _has_images(images):
            raise IndexError("the cat is out of the bag")
        return super().forward(images)


class TakesFour(LeNet):
    """Asks for more memory than any machine has where it sees more than four images."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) > 4:
            torch.empty(2**50)
        return super().forward(images)


class LearnsByFour(nn.Module):
    """As above, but only to learn, and in the backward pass where half of that go through.

    It has batch normalisation and dropout, which doing a pass again must not show.
    """

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.2)
        )
        self.head = nn.Linear(8, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.features(images).mean((2, 3))
        if self.training and len(images) > 4:
            torch.empty(2**50)
        if self.training and len(images) > 2 and found.requires_grad:
            found.register_hook(lambda _gradient: torch.empty(2**50).sum())
        return self.head(found)  # type: ignore[no-any-return]


class LearnsThree(LeNet):
    """Asks for more memory than any machine has where it learns from more than three images."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training and len(images) > 3:
            torch.empty(2**50)
        return super().forward(images)


class Hungry(nn.Module):
    """Takes 100 MiB for each image of 160 x 160 that it learns from."""

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 256, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(256)
        self.head = nn.Linear(256, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found = torch.tanh(self.norm(self.features(images)))
        return self.head(found.mean((2, 3)))  # type: ignore[no-any-return]


class Normed(nn.Module):
    """With batch normalisation, whose statistics are each process's own."""

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.features(images).mean((2, 3))
        return self.head(found)  # type: ignore[no-any-return]


class PartlyUsed(Normed):
    """Has a part that no image goes through."""

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__(num_classes)
        self.idle = nn.Linear(3, 3)


class Scaled(Normed):
    """Has a parameter that is a single number."""

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__(num_classes)
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) * self.scale


class Drawn(Normed):
    """Draws its start from a generator that nobody seeds."""

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__(num_classes)
        with torch.no_grad():
            self.features[0].bias.fill_(os.getpid())  # type: ignore[union-attr,operator]


class Dropped(Normed):
    """With dropout, too."""

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__(num_classes)
        self.features.append(nn.Dropout2d(0.3))

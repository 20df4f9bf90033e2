"""Models that end a trial in one of the ways in which trials end."""

from __future__ import annotations

import os
import signal
import threading

import torch

from luthier.models.lenet import LeNet


def _has_images(images: torch.Tensor) -> bool:
    return len(images) > 2  # not the two with which a head is looked for


class Killed(LeNet):
    """As by a system that has run out of memory."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if _has_images(images):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(images)


class Hangs(LeNet):
    """Waits for what never comes."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if _has_images(images):
            threading.Event().wait()
        return super().forward(images)


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

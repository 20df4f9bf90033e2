"""What can be set without another optimization, and what a trial of it gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Setting:
    """Fields of the recipe that decide how fast a step is; the names are the recipe's.

    Attributes:
        batch_size: images that are computed at once.
        accumulate: batches whose gradients make one step.
        precision: "fp32" or "bf16".
        compile: whether the model is compiled.
        pin_memory: whether batches are copied from page-locked memory.
        workers: threads that read images.
    """

    batch_size: int
    accumulate: int
    precision: str
    compile: bool
    pin_memory: bool
    workers: int

    @property
    def effective_batch(self) -> int:
        """Images whose gradients make one step of the optimizer."""
        return self.batch_size * self.accumulate

    def with_batch(self, images: int) -> Setting:
        """Return the setting that computes so many images at once, for the same steps.

        Args:
            images: a divisor of the effective batch.
        """
        return dataclasses.replace(
            self, batch_size=images, accumulate=self.effective_batch // images
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values, by the recipe's names."""
        return dataclasses.asdict(self)

    def changed_from(self, other: Setting) -> dict[str, Any]:
        """Return the fields that differ from another setting's."""
        before = other.as_dict()
        return {name: value for name, value in self.as_dict().items() if value != before[name]}

    def __str__(self) -> str:
        batch = f"batch {self.batch_size}"
        if self.accumulate > 1:
            batch = f"{self.accumulate} batches of {self.batch_size}"
        parts = [batch, self.precision, f"{self.workers} workers"]
        parts += ["compiled"] if self.compile else []
        parts += ["pinned"] if self.pin_memory else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Facts:
    """What a trial finds on the machine and in the data before it trains.

    Attributes:
        setting: as it was resolved there.
        device: such as "cpu" or "cuda:0".
        images: to train on.
        epochs: of the run.
        memory: bytes that training may take of the device's memory, or the machine's.
        compiler: what compiles for the device; "" where nothing does.
    """

    setting: Setting
    device: str
    images: int
    epochs: int
    memory: int
    compiler: str

    @property
    def of_device(self) -> str:
        """The device's kind, such as "cuda"."""
        return self.device.split(":", maxsplit=1)[0]

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Facts:
        """Return the facts that ``dataclasses.asdict`` described."""
        return cls(**{**told, "setting": Setting(**told["setting"])})


@dataclass(frozen=True)
class Measured:
    """One round of training steps.

    Attributes:
        images: trained on.
        seconds: that they took.
        kinds: seconds by kind of work, such as "waiting for data".
        peak: most bytes that were taken of the device's memory so far.
    """

    images: int
    seconds: float
    kinds: Mapping[str, float]
    peak: int

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images / self.seconds

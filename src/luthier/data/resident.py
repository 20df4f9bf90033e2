"""Photos that a device holds whole, to cut the views from them itself."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch

from luthier.data.matrices import resample
from luthier.data.rendering import Pixels
from luthier.data.views import View
from luthier.values import Preprocessing


class Resident:
    """Photos on a device, by index, up to a number of bytes.

    Args:
        how: size and interpolation of the squares.
        crop: whether squares are cut from the photos; or the photos are squares already.
        device: that holds them.
        budget: bytes that it may hold.

    Attributes:
        fits: whether all that was added could be held.
    """

    def __init__(self, how: Preprocessing, crop: bool, device: torch.device, budget: int) -> None:
        self.fits = True
        self._how, self._crop, self._device = how, crop, device
        self._left, self._lock = budget, threading.Lock()
        self._photos: dict[int, torch.Tensor] = {}

    def add(self, index: int, photo: Pixels) -> None:
        """Bring a photo to the device, unless too many are there; for several threads."""
        with self._lock:
            self._left -= photo.nbytes
            if self._left < 0:
                self.fits = False
                self._photos.clear()
        if self.fits:
            held = torch.tensor(photo, device=self._device)
            with self._lock:
                self._photos[index] = held

    def __getitem__(self, index: int) -> torch.Tensor:
        """Return a photo, uint8 ``[height, width, 3]``."""
        return self._photos[index]

    def squares(self, photos: Sequence[torch.Tensor], views: Sequence[View]) -> torch.Tensor:
        """Return views of photos in grey levels, ``[len(photos), size, size, 3]``."""
        boxes, flips = [view.box for view in views], [view.flip for view in views]
        if self._crop:
            how = self._how
            images = resample(photos, boxes, flips, how.image_size, how.interpolation)
            return images.permute(0, 2, 3, 1).contiguous()
        squares = torch.stack(list(photos))
        flipped = torch.tensor(flips, device=self._device)[:, None, None, None]
        return torch.where(flipped, squares.flip(2), squares)

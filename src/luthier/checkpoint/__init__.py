"""Training state ⇄ a directory: capture, save, verify, restore, keep."""

from luthier.checkpoint.optimizer import capture_optimizer, restore_optimizer
from luthier.checkpoint.store import Checkpoint, Content, newest, save, steps_in, verify

__all__ = [
    "Checkpoint",
    "Content",
    "capture_optimizer",
    "newest",
    "restore_optimizer",
    "save",
    "steps_in",
    "verify",
]

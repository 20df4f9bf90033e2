"""Training state ⇄ a directory: capture, copy beside the training, save, verify, restore, keep."""

from luthier.checkpoint.optimizer import (
    OptimizerReport,
    capture_optimizer,
    check_named,
    fit_optimizer,
    learning_in,
    names_of,
    restore_optimizer,
    restore_options,
)
from luthier.checkpoint.parts import (
    Captured,
    Saved,
    Stateful,
    capture_module,
    capture_stateful,
    fit_module,
    fit_stateful,
    restore_module,
    restore_stateful,
)
from luthier.checkpoint.saver import DISK_TROUBLE, Costs, Saver, State
from luthier.checkpoint.store import (
    Checkpoint,
    Written,
    directory_of,
    newest,
    read,
    steps_in,
    verify,
)

__all__ = [
    "DISK_TROUBLE",
    "Captured",
    "Checkpoint",
    "Costs",
    "OptimizerReport",
    "Saved",
    "Saver",
    "State",
    "Stateful",
    "Written",
    "capture_module",
    "capture_optimizer",
    "capture_stateful",
    "check_named",
    "directory_of",
    "fit_module",
    "fit_optimizer",
    "fit_stateful",
    "learning_in",
    "names_of",
    "newest",
    "read",
    "restore_module",
    "restore_optimizer",
    "restore_options",
    "restore_stateful",
    "steps_in",
    "verify",
]

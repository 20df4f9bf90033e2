"""Which accelerators there are, which a job is given, and who holds them. No torch here."""

from luthier.accelerators.amounts import parse_size, parse_time
from luthier.accelerators.holders import Holder
from luthier.accelerators.launch import acquire, environment_of, launch, look
from luthier.accelerators.leases import Lease, Leases
from luthier.accelerators.nvml import survey
from luthier.accelerators.picking import Held, Request, gib, pick
from luthier.accelerators.values import Accelerator, Survey
from luthier.accelerators.visible import Visible, visible

__all__ = [
    "Accelerator",
    "Held",
    "Holder",
    "Lease",
    "Leases",
    "Request",
    "Survey",
    "Visible",
    "acquire",
    "environment_of",
    "gib",
    "launch",
    "look",
    "parse_size",
    "parse_time",
    "pick",
    "survey",
    "visible",
]

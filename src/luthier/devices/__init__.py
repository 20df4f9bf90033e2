"""Which device, precision and number of workers, and why; how much memory training takes."""

from luthier.devices.choose import (
    WORTH,
    Chosen,
    Probe,
    choose,
    choose_precision,
    fit_threads,
    probe,
)
from luthier.devices.heap import give_freed_memory_back, keep_freed_memory
from luthier.devices.holding import Hold, Terms, hold, hold_used
from luthier.devices.measure import bf16_speedup
from luthier.devices.memory import MemoryReport, memory_report
from luthier.machine.allowed import cores_allowed, memory_allowed

__all__ = [
    "WORTH",
    "Chosen",
    "Hold",
    "MemoryReport",
    "Probe",
    "Terms",
    "bf16_speedup",
    "choose",
    "choose_precision",
    "cores_allowed",
    "fit_threads",
    "give_freed_memory_back",
    "hold",
    "hold_used",
    "keep_freed_memory",
    "memory_allowed",
    "memory_report",
    "probe",
]

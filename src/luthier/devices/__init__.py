"""Which device, precision and number of workers, and why."""

from luthier.devices.choose import WORTH, Chosen, Probe, choose, choose_precision, probe
from luthier.devices.cores import fit_threads, quota_of, usable_cores
from luthier.devices.measure import bf16_speedup

__all__ = [
    "WORTH",
    "Chosen",
    "Probe",
    "bf16_speedup",
    "choose",
    "choose_precision",
    "fit_threads",
    "probe",
    "quota_of",
    "usable_cores",
]

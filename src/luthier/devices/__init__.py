"""Which device, precision and number of workers, and why."""

from luthier.devices.choose import Chosen, Probe, choose, probe, usable_cores

__all__ = ["Chosen", "Probe", "choose", "probe", "usable_cores"]

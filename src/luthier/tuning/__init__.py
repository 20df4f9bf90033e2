"""What a run could be set to, what was measured, and what follows from it. Pure; needs no torch.

The room is not called ``tune``: ``luthier.tune`` is the function, and a package of that name would
take its place as soon as something imported it.
"""

from luthier.tuning.gain import LEAST_GAIN, Gain, gain_of, is_decided, pays_back
from luthier.tuning.limit import divisors, largest_that_fits
from luthier.tuning.options import Options, options_of
from luthier.tuning.settings import Facts, Measured, Setting

__all__ = [
    "LEAST_GAIN",
    "Facts",
    "Gain",
    "Measured",
    "Options",
    "Setting",
    "divisors",
    "gain_of",
    "is_decided",
    "largest_that_fits",
    "options_of",
    "pays_back",
]

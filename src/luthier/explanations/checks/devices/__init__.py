"""Errors of devices, of their memory, and of versions that do not fit together."""

from luthier.explanations.checks.devices.assertions import asserted as asserted
from luthier.explanations.checks.devices.assertions import asserted_index as asserted_index
from luthier.explanations.checks.devices.assertions import asserted_label as asserted_label
from luthier.explanations.checks.devices.assertions import asserted_pixel as asserted_pixel
from luthier.explanations.checks.devices.assertions import (
    asserted_probability as asserted_probability,
)
from luthier.explanations.checks.devices.assertions import asserted_row as asserted_row
from luthier.explanations.checks.devices.builds import backend as backend
from luthier.explanations.checks.devices.builds import data_parallel as data_parallel
from luthier.explanations.checks.devices.builds import device_name as device_name
from luthier.explanations.checks.devices.builds import dll as dll
from luthier.explanations.checks.devices.builds import driver as driver
from luthier.explanations.checks.devices.builds import extension as extension
from luthier.explanations.checks.devices.builds import generator as generator
from luthier.explanations.checks.devices.builds import hidden as hidden
from luthier.explanations.checks.devices.builds import in_a_worker as in_a_worker
from luthier.explanations.checks.devices.builds import loaded as loaded
from luthier.explanations.checks.devices.builds import near_torch as near_torch
from luthier.explanations.checks.devices.builds import not_started as not_started
from luthier.explanations.checks.devices.builds import of_gpu as of_gpu
from luthier.explanations.checks.devices.builds import of_opencv as of_opencv
from luthier.explanations.checks.devices.builds import ordinal as ordinal
from luthier.explanations.checks.devices.builds import pinned as pinned
from luthier.explanations.checks.devices.common import said as said
from luthier.explanations.checks.devices.memory import capped as capped
from luthier.explanations.checks.devices.memory import fragmented as fragmented
from luthier.explanations.checks.devices.memory import larger_than_device as larger_than_device
from luthier.explanations.checks.devices.memory import of_a_batch as of_a_batch
from luthier.explanations.checks.devices.memory import of_a_move as of_a_move
from luthier.explanations.checks.devices.memory import of_an_optimizer as of_an_optimizer
from luthier.explanations.checks.devices.memory import of_host as of_host
from luthier.explanations.checks.devices.memory import of_others as of_others
from luthier.explanations.checks.devices.places import apart as apart
from luthier.explanations.checks.devices.places import apart_in_layer as apart_in_layer
from luthier.explanations.checks.devices.places import apart_in_loss as apart_in_loss
from luthier.explanations.checks.devices.places import apart_in_optimizer as apart_in_optimizer
from luthier.explanations.checks.devices.places import apart_on_meta as apart_on_meta
from luthier.explanations.checks.devices.places import without_values as without_values

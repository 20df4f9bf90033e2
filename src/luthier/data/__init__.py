"""A folder of images, or anyone's data → batches, as a function of (seed, epoch, position)."""

from luthier.data.batches import Batch, Batches
from luthier.data.decoded import Decoded
from luthier.data.images import decode, decoded_edge
from luthier.data.inventory import Changes, Inventory, compare
from luthier.data.listing import Listing, list_images
from luthier.data.loader import KeyedBatches, StatefulBatches, keyed_batches
from luthier.data.photos import Photos, Sample, open_photos
from luthier.data.reading import Photo, Read, read_batches
from luthier.data.rendering import AVERAGED, preprocess
from luthier.data.views import Augment

__all__ = [
    "AVERAGED",
    "Augment",
    "Batch",
    "Batches",
    "Changes",
    "Decoded",
    "Inventory",
    "KeyedBatches",
    "Listing",
    "Photo",
    "Photos",
    "Read",
    "Sample",
    "StatefulBatches",
    "compare",
    "decode",
    "decoded_edge",
    "keyed_batches",
    "list_images",
    "open_photos",
    "preprocess",
    "read_batches",
]

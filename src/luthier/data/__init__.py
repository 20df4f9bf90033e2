"""A folder of images, or anyone's data → batches, as a function of (seed, epoch, position)."""

from luthier.data.images import decode
from luthier.data.inventory import Changes, Inventory, compare
from luthier.data.listing import Listing, list_images
from luthier.data.loader import Batch, Batches, KeyedBatches, StatefulBatches, keyed_batches
from luthier.data.photos import Photos, Sample, open_photos
from luthier.data.transforms import evaluation_transform, preprocess, training_transform

__all__ = [
    "Batch",
    "Batches",
    "Changes",
    "Inventory",
    "KeyedBatches",
    "Listing",
    "Photos",
    "Sample",
    "StatefulBatches",
    "compare",
    "decode",
    "evaluation_transform",
    "keyed_batches",
    "list_images",
    "open_photos",
    "preprocess",
    "training_transform",
]

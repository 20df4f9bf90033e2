"""A folder of images → batches, as a function of (seed, epoch, position)."""

from luthier.data.images import decode
from luthier.data.listing import Listing, list_images
from luthier.data.loader import Batch, Batches
from luthier.data.photos import Photos, Sample, open_photos
from luthier.data.transforms import evaluation_transform, preprocess, training_transform

__all__ = [
    "Batch",
    "Batches",
    "Listing",
    "Photos",
    "Sample",
    "decode",
    "evaluation_transform",
    "list_images",
    "open_photos",
    "preprocess",
    "training_transform",
]

"""Folders in object storage, through fsspec: objects by name, and the claim of who writes them."""

from luthier.storage.bucket import Bucket, is_url
from luthier.storage.claim import Claim

__all__ = ["Bucket", "Claim", "is_url"]

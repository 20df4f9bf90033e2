"""The processes that train together: who they are, and what they tell each other."""

from luthier.distributed.job import job_id
from luthier.distributed.share import Share
from luthier.distributed.world import ALONE, World, grace, joined, naming_lost_peers

__all__ = ["ALONE", "Share", "World", "grace", "job_id", "joined", "naming_lost_peers"]

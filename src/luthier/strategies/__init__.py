"""Policies: which parameters learn, when and how fast; and the proof that the rest did not."""

from luthier.strategies.audit import Audit, digests, inspect_moves
from luthier.strategies.blocks import blocks_of
from luthier.strategies.groups import apply_rates, decayed_names, new_groups
from luthier.strategies.policy import Policy, Rate, frozen_blocks, policy_of

__all__ = [
    "Audit",
    "Policy",
    "Rate",
    "apply_rates",
    "blocks_of",
    "decayed_names",
    "digests",
    "frozen_blocks",
    "inspect_moves",
    "new_groups",
    "policy_of",
]

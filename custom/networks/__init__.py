"""Networks that MONAI does not have, and what is done to any network."""

from .checkpointing import checkpoint_activations
from .unetplusplus import FlexibleUNetPlusPlus

__all__ = ["FlexibleUNetPlusPlus", "checkpoint_activations"]

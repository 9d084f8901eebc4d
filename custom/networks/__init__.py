"""Networks that MONAI does not have."""

from .unetplusplus import FlexibleUNetPlusPlus

__all__ = ["FlexibleUNetPlusPlus"]

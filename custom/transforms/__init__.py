"""MONAI dictionary transforms: augmentation, targets, post-processing."""

from .regions import LabelToRegionsd, RegionsToLabeld
from .save import SaveVolumed
from .warp import RandWarpd

__all__ = ["LabelToRegionsd", "RandWarpd", "RegionsToLabeld", "SaveVolumed"]

"""MONAI dictionary transforms: augmentation, targets, post-processing."""

from .augmentation import RandPatchDropoutd, RandSheetCompressiond
from .check_file import CheckFiled
from .liver_postprocessing import CleanLiverd
from .postprocessing import PostprocessSurfaced
from .regions import LabelToRegionsd, RegionsToLabeld
from .save import SaveVolumed
from .targets import SurfaceTargetsd
from .warp import RandWarpd

__all__ = [
    "CheckFiled",
    "CleanLiverd",
    "LabelToRegionsd",
    "PostprocessSurfaced",
    "RandPatchDropoutd",
    "RandSheetCompressiond",
    "RandWarpd",
    "RegionsToLabeld",
    "SaveVolumed",
    "SurfaceTargetsd",
]

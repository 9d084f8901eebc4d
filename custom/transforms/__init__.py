"""MONAI dictionary transforms: augmentation, targets, post-processing."""

from .augmentation import RandPatchDropoutd, RandSheetCompressiond
from .check_values import CheckValuesd
from .liver_postprocessing import CleanLiverd
from .postprocessing import PostprocessSurfaced
from .regions import LabelToRegionsd, RegionsToLabeld
from .save import SaveVolumed
from .symmetry import RandSymmetriesd
from .targets import SurfaceTargetsd
from .warp import RandWarpd

__all__ = [
    "CheckValuesd",
    "CleanLiverd",
    "LabelToRegionsd",
    "PostprocessSurfaced",
    "RandPatchDropoutd",
    "RandSheetCompressiond",
    "RandSymmetriesd",
    "RandWarpd",
    "RegionsToLabeld",
    "SaveVolumed",
    "SurfaceTargetsd",
]

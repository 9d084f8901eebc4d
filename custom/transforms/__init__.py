"""MONAI dictionary transforms: augmentation, targets, post-processing."""

from .augmentation import RandPatchDropoutd, RandSheetCompressiond
from .check_file import CheckFiled
from .liver_postprocessing import CleanLiverd
from .postprocessing import (
    ClearOutsideSupportd,
    CloseWithBalld,
    FillCavitiesd,
    HysteresisThresholdd,
    PatchLargeHolesd,
    PlugPinholesd,
    PostprocessSurfaced,
)
from .regions import LabelToRegionsd, RegionsToLabeld
from .save import SaveVolumed
from .targets import SurfaceTargetsd
from .warp import RandWarpd

__all__ = [
    "CheckFiled",
    "CleanLiverd",
    "ClearOutsideSupportd",
    "CloseWithBalld",
    "FillCavitiesd",
    "HysteresisThresholdd",
    "LabelToRegionsd",
    "PatchLargeHolesd",
    "PlugPinholesd",
    "PostprocessSurfaced",
    "RandPatchDropoutd",
    "RandSheetCompressiond",
    "RandWarpd",
    "RegionsToLabeld",
    "SaveVolumed",
    "SurfaceTargetsd",
]

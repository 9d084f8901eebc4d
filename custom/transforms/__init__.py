"""MONAI dictionary transforms: augmentation, targets, post-processing."""

from .augmentation import RandContrastd, RandNoised, RandPatchDropoutd, RandSheetCompressiond
from .batch import BatchCompose
from .check_values import CheckValuesd
from .clear_outside import ClearOutsided
from .liver_postprocessing import CleanLiverd
from .nnunet_normalization import NormalizeNnunetd
from .postprocessing import PostprocessSurfaced
from .rand_warp import RandWarpd
from .regions import LabelToRegionsd, RegionsToLabeld
from .save import SaveVolumed
from .surface_targets import SurfaceTargetsd
from .symmetry import RandSymmetriesd

"""Loss functions, one per file."""

from .bce_dice import BCEDiceLoss
from .betti_matching import BettiMatchingLoss
from .boundary import SurfaceDistanceLoss
from .cldice import SoftClDiceLoss
from .compound import CompoundLoss
from .dice_ce import MaskedDiceCELoss
from .float32 import Float32Loss
from .focal_tversky import FocalTverskyLoss
from .log_cosh_dice import LogCoshDiceLoss
from .lovasz import LovaszHingeLoss
from .medial_recall import MedialRecallLoss

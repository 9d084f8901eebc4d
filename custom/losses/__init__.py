"""Loss functions, one a file."""

from .bce_dice import BCEDiceLoss
from .dice_ce import MaskedDiceCELoss

__all__ = ["BCEDiceLoss", "MaskedDiceCELoss"]

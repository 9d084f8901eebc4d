"""Binary cross-entropy and Dice for overlapping regions."""

import torch
import torch.nn.functional as F
from monai.losses import DiceLoss

from .regions import RegionLoss


class BCEDiceLoss(RegionLoss):
    """``lambda_bce * BCE + lambda_dice * Dice`` of sigmoid regions, in float32.

    :class:`monai.losses.DiceCELoss` treats several channels as exclusive classes with a softmax cross-entropy.

    Example: ``{"_target_": "custom.losses.BCEDiceLoss", "lambda_bce": 0.5, "lambda_dice": 0.5}``

    Args:
        lambda_bce: weight of the cross-entropy, the mean over all voxels and regions.
        lambda_dice: weight of the Dice loss, the mean over the regions.
        batch: whether Dice is computed over the whole batch (see :class:`.RegionLoss`) or for each slice.
        smooth: added to numerator and denominator of Dice, so that it is finite if a region is absent.
    """

    def __init__(
        self, *, lambda_bce: float = 0.5, lambda_dice: float = 0.5, batch: bool = True, smooth: float = 1e-5
    ) -> None:
        super().__init__()
        self.lambda_bce = lambda_bce
        self.lambda_dice = lambda_dice
        self.dice = DiceLoss(sigmoid=True, batch=batch, smooth_nr=smooth, smooth_dr=smooth)

    def compute(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        bce = F.binary_cross_entropy_with_logits(logits, target)
        return self.lambda_bce * bce + self.lambda_dice * self.dice(logits, target)

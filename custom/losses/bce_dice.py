"""Binary cross-entropy and Dice for overlapping regions."""

import torch.nn.functional as F
from monai.losses import DiceLoss
from torch import Tensor

from .regions import RegionLoss


class BCEDiceLoss(RegionLoss):
    """``lambda_bce * BCE + lambda_dice * Dice`` of sigmoid regions, in float32.

    :class:`monai.losses.DiceCELoss` treats several channels as exclusive classes with a softmax cross-entropy.

    Example: ``{"_target_": "custom.losses.BCEDiceLoss", "lambda_bce": 0.5, "lambda_dice": 0.5}``

    Args:
        lambda_dice: weight of the Dice loss, the mean over the regions.
        batch: whether Dice is computed over the whole batch (see :class:`.RegionLoss`) or for each slice.
    """

    def __init__(self, *, lambda_bce: float = 0.5, lambda_dice: float = 0.5, batch: bool = True) -> None:
        super().__init__()
        self.lambda_bce, self.lambda_dice = lambda_bce, lambda_dice
        self.dice = DiceLoss(sigmoid=True, batch=batch)

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        bce = F.binary_cross_entropy_with_logits(logits, target)
        return self.lambda_bce * bce + self.lambda_dice * self.dice(logits, target)

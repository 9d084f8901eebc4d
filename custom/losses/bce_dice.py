"""Binary cross-entropy and Dice of overlapping regions."""

import torch
import torch.nn.functional as F
from monai.losses import DiceLoss
from torch.nn.modules.loss import _Loss

from .float32 import in_float32


class BCEDiceLoss(_Loss):
    """``lambda_bce * BCE + lambda_dice * Dice`` of sigmoid regions, in float32.

    :class:`monai.losses.DiceCELoss` takes more than one channel for exclusive classes, whose cross-entropy is a
    softmax; the liver holds the tumour, so each region is a question of its own here.

    Args:
        lambda_bce: weight of the cross-entropy, the mean over all voxels and regions.
        lambda_dice: weight of the Dice loss, the mean over the regions.
        batch: whether Dice pools the batch. Slice by slice, a slice without liver (about half of an abdominal CT)
            adds a constant 1 with hardly any gradient; pooled, it adds its false alarms to those of the others.
        smooth: added to numerator and denominator of Dice, so that a batch without the region stays finite.
    """

    def __init__(
        self, *, lambda_bce: float = 0.5, lambda_dice: float = 0.5, batch: bool = True, smooth: float = 1e-5
    ) -> None:
        super().__init__()
        self.lambda_bce = lambda_bce
        self.lambda_dice = lambda_dice
        self.dice = DiceLoss(sigmoid=True, batch=batch, smooth_nr=smooth, smooth_dr=smooth)

    @in_float32
    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """
        Args:
            input: logits ``(B, R, ...)``, one channel a region.
            target: ``(B, R, ...)``, 1 inside the region, else 0, of any dtype.

        Raises:
            ValueError: when the shapes differ.
        """
        bce = F.binary_cross_entropy_with_logits(input, target)
        return self.lambda_bce * bce + self.lambda_dice * self.dice(input, target)

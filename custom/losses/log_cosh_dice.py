"""Log-cosh Dice loss for overlapping regions."""

import torch
from monai.losses import DiceLoss

from .regions import RegionLoss


class LogCoshDiceLoss(RegionLoss):
    """``mean over regions of log(cosh(1 - Dice))``, in float32.

    Jadon, A survey of loss functions for semantic segmentation, CIBCB 2020 (arXiv 2006.14822): the gradient, tanh of
    the Dice loss, vanishes as Dice approaches 1.

    Example: ``{"_target_": "custom.losses.LogCoshDiceLoss"}``

    Args:
        batch: whether Dice is computed over the whole batch (see :class:`.RegionLoss`) or for each slice.
        smooth: added to numerator and denominator of Dice, so that it is finite if a region is absent.
    """

    def __init__(self, *, batch: bool = True, smooth: float = 1e-5) -> None:
        super().__init__()
        self.dice = DiceLoss(sigmoid=True, batch=batch, smooth_nr=smooth, smooth_dr=smooth, reduction="none")

    def compute(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.log(torch.cosh(self.dice(logits, target))).mean()

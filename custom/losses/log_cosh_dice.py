"""The log-cosh Dice loss of overlapping regions."""

import torch
from monai.losses import DiceLoss

from .regions import RegionLoss


class LogCoshDiceLoss(RegionLoss):
    """``mean over regions of log(cosh(1 - Dice))``, in float32.

    Jadon, A survey of loss functions for semantic segmentation, CIBCB 2020 (arXiv 2006.14822): the slope, the tanh of
    the Dice loss, goes to 0 as the Dice goes to 1.

    Args:
        batch: whether Dice pools the batch (see :class:`.RegionLoss`) or is taken slice by slice.
        smooth: added to numerator and denominator of Dice, so that a batch without the region stays finite.
    """

    def __init__(self, *, batch: bool = True, smooth: float = 1e-5) -> None:
        super().__init__()
        self.dice = DiceLoss(sigmoid=True, batch=batch, smooth_nr=smooth, smooth_dr=smooth, reduction="none")

    def compute(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.log(torch.cosh(self.dice(logits, target))).mean()

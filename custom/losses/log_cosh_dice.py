"""Log-cosh Dice loss for overlapping regions."""

from monai.losses import DiceLoss
from torch import Tensor

from .regions import RegionLoss


class LogCoshDiceLoss(RegionLoss):
    """``mean over regions of log(cosh(1 - Dice))``, in float32.

    Jadon, A survey of loss functions for semantic segmentation, CIBCB 2020 (arXiv 2006.14822): the gradient, tanh of
    the Dice loss, vanishes as Dice approaches 1.

    Example: ``{"_target_": "custom.losses.LogCoshDiceLoss"}``

    Args:
        batch: whether Dice is computed over the whole batch (see :class:`.RegionLoss`) or for each slice.
    """

    def __init__(self, *, batch: bool = True) -> None:
        super().__init__()
        self.dice = DiceLoss(sigmoid=True, batch=batch, reduction="none")

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        return self.dice(logits, target).cosh().log().mean()

"""Dice and cross-entropy, without the ignored voxels."""

import torch
import torch.nn.functional as F
from monai.losses import DiceLoss

from ..ops.target_layout import IGNORE_LABEL
from .masked import MaskedLoss


class MaskedDiceCELoss(MaskedLoss):
    """``lambda_dice * Dice + lambda_ce * CE`` over the voxels that are not ignored.

    Like :class:`monai.losses.DiceCELoss`, which has no ignore label. Dice is that of the surface channel; the
    cross-entropy is the mean over all valid voxels of the batch. Works on each level of
    :class:`monai.losses.DeepSupervisionLoss`: nearest-neighbour resizing keeps labels and ignored voxels exact.

    Args:
        lambda_dice: weight of the Dice loss.
        lambda_ce: weight of the cross-entropy.
        batch: whether Dice pools the batch instead of averaging the patches.
        smooth: added to numerator and denominator of Dice, so that a patch without valid surface stays finite.
        ignore_index: label value of the voxels that are left out.
    """

    def __init__(
        self,
        *,
        lambda_dice: float = 1.0,
        lambda_ce: float = 1.0,
        batch: bool = False,
        smooth: float = 1e-5,
        ignore_index: int = IGNORE_LABEL,
    ) -> None:
        super().__init__(ignore_index=ignore_index)
        self.lambda_dice = lambda_dice
        self.lambda_ce = lambda_ce
        self.dice = DiceLoss(
            include_background=False,
            to_onehot_y=True,
            softmax=True,
            smooth_nr=smooth,
            smooth_dr=smooth,
            batch=batch,
            ignore_index=ignore_index,
        )

    def compute(
        self, logits: torch.Tensor, label: torch.Tensor, valid: torch.Tensor, *extras: torch.Tensor
    ) -> torch.Tensor:
        # The mean of no voxels would be NaN, so the sum is divided here.
        ce = F.cross_entropy(logits, label[:, 0].long(), ignore_index=self.ignore_index, reduction="sum")
        ce = ce / valid.sum().clamp(min=1)
        return self.lambda_dice * self.dice(logits, label) + self.lambda_ce * ce

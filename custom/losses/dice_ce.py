"""Dice and cross-entropy with an ignored label."""

import torch
import torch.nn.functional as F
from monai.losses import DiceLoss

from ..ops.target_layout import IGNORE_LABEL
from .masked import MaskedLoss


class MaskedDiceCELoss(MaskedLoss):
    """``lambda_dice * Dice + lambda_ce * CE`` without ignored voxels.

    Like :class:`monai.losses.DiceCELoss`, which has no ignored label. Dice is that of the surface channel; the
    cross-entropy is the mean over all valid voxels of the batch. Suitable for
    :class:`monai.losses.DeepSupervisionLoss`, whose nearest-neighbour resizing keeps labels exact.

    Example: ``{"_target_": "custom.losses.MaskedDiceCELoss", "lambda_dice": 1.0, "lambda_ce": 1.0}``

    Args:
        lambda_dice: weight of the Dice loss.
        lambda_ce: weight of the cross-entropy.
        batch: whether Dice is computed over the whole batch instead of for each patch.
        smooth: added to numerator and denominator of Dice, so that it is finite without any valid surface.
        ignore_index: label value of ignored voxels.
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
        # The sum is divided here, since the mean over no voxels would be NaN.
        ce = F.cross_entropy(logits, label[:, 0].long(), ignore_index=self.ignore_index, reduction="sum")
        ce = ce / valid.sum().clamp(min=1)
        return self.lambda_dice * self.dice(logits, label) + self.lambda_ce * ce

"""Dice and cross-entropy with an ignored label."""

import torch.nn.functional as F
from monai.losses import DiceLoss
from torch import Tensor

from ..ops.target_layout import IGNORE_LABEL
from .masked import MaskedLoss


class MaskedDiceCELoss(MaskedLoss):
    """``lambda_dice * Dice + lambda_ce * CE`` without ignored voxels.

    Like :class:`monai.losses.DiceCELoss`, which has no ignored label. Dice is that of the surface channel, the mean
    over the patches; the cross-entropy is the mean over all valid voxels of the batch. Suitable for
    :class:`monai.losses.DeepSupervisionLoss`, whose nearest-neighbour resizing keeps labels exact.

    Example: ``{"_target_": "custom.losses.MaskedDiceCELoss", "lambda_dice": 1.0, "lambda_ce": 1.0}``

    Args:
        lambda_dice, lambda_ce: weights of the two losses.
    """

    def __init__(self, *, lambda_dice: float = 1.0, lambda_ce: float = 1.0) -> None:
        super().__init__()
        self.lambda_dice, self.lambda_ce = lambda_dice, lambda_ce
        self.dice = DiceLoss(include_background=False, to_onehot_y=True, softmax=True, ignore_index=IGNORE_LABEL)

    def compute(self, logits: Tensor, label: Tensor, valid: Tensor, *extras: Tensor) -> Tensor:
        # The sum is divided here, since the mean over no voxels would be NaN.
        ce = F.cross_entropy(logits, label[:, 0].long(), ignore_index=IGNORE_LABEL, reduction="sum")
        return self.lambda_dice * self.dice(logits, label) + self.lambda_ce * ce / valid.sum().clamp(min=1)

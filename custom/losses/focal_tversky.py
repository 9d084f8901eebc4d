"""The focal Tversky loss of overlapping regions."""

import torch
from monai.losses import TverskyLoss

from .regions import RegionLoss


class FocalTverskyLoss(RegionLoss):
    """``mean over regions of (1 - TI) ** (1 / gamma)``, ``TI = TP / (TP + alpha FP + beta FN)``, in float32.

    Abraham and Khan, A Novel Focal Tversky Loss Function with Improved Attention U-Net for Lesion Segmentation, ISBI
    2019 (arXiv 1810.07842), who use ``gamma`` 4/3: an exponent of 0.75 weights regions that are almost right up.
    MONAI's ``AsymmetricFocalTverskyLoss`` is another function, made for one background and one foreground channel.

    Args:
        alpha: weight of false alarms.
        beta: weight of missed voxels; more than ``alpha`` favours recall.
        gamma: 1 gives the Tversky loss.
        batch: whether the region's voxels are counted over the batch (see :class:`.RegionLoss`) or slice by slice.
        smooth: added to numerator and denominator, so that a batch without the region stays finite.
    """

    # Below this the slope of x ** (1 / gamma), infinite at 0, is cut off.
    _FLOOR = 1e-6

    def __init__(
        self,
        *,
        alpha: float = 0.3,
        beta: float = 0.7,
        gamma: float = 4 / 3,
        batch: bool = True,
        smooth: float = 1e-5,
    ) -> None:
        super().__init__()
        self.exponent = 1 / gamma
        self.tversky = TverskyLoss(
            sigmoid=True, alpha=alpha, beta=beta, batch=batch, smooth_nr=smooth, smooth_dr=smooth, reduction="none"
        )

    def compute(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return self.tversky(logits, target).clamp(min=self._FLOOR).pow(self.exponent).mean()

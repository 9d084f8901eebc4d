"""Focal Tversky loss for overlapping regions."""

from monai.losses import TverskyLoss
from torch import Tensor

from .regions import RegionLoss

_FLOOR = 1e-6
"""x is clamped to this, since the slope of ``x ** (1 / gamma)`` is infinite at 0."""


class FocalTverskyLoss(RegionLoss):
    """``mean over regions of (1 - TI) ** (1 / gamma)``, ``TI = TP / (TP + alpha FP + beta FN)``, in float32.

    Abraham and Khan, A Novel Focal Tversky Loss Function with Improved Attention U-Net for Lesion Segmentation, ISBI
    2019 (arXiv 1810.07842), with ``gamma`` 4/3: an exponent of 0.75 increases the weight of regions that are almost
    correct. MONAI's ``AsymmetricFocalTverskyLoss`` is a different function, for one background and one foreground
    channel.

    Example: ``{"_target_": "custom.losses.FocalTverskyLoss", "alpha": 0.3, "beta": 0.7}``

    Args:
        beta: weight of false negatives; a value above ``alpha`` favours recall.
        batch: whether voxels are counted over the whole batch (see :class:`.RegionLoss`) or for each slice.
    """

    def __init__(self, *, alpha: float = 0.3, beta: float = 0.7, gamma: float = 4 / 3, batch: bool = True) -> None:
        super().__init__()
        self.exponent = 1 / gamma
        self.tversky = TverskyLoss(sigmoid=True, alpha=alpha, beta=beta, batch=batch, reduction="none")

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        return self.tversky(logits, target).clamp(min=_FLOOR).pow(self.exponent).mean()

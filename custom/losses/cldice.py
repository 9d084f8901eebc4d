"""Soft clDice: overlap of skeletons with masks."""

import torch

from ..ops.skeleton import soft_skeleton
from ..ops.target_layout import IGNORE_LABEL
from .masked import MaskedLoss, surface_probability


class SoftClDiceLoss(MaskedLoss):
    """Soft clDice (Shit et al., CVPR 2021, arXiv 2003.07311) of the surface, without ignored voxels.

    ``1 - 2 T S / (T + S + 1e-4)`` with the topology precision ``T``, the fraction of the prediction's soft skeleton
    within the label, and the topology sensitivity ``S``, the fraction of the label's skeleton within the prediction;
    mean over the batch. The value is that of ``monai.losses.SoftclDiceLoss`` on the surface channel. Prediction and
    label are set to 0 in the ignored region, as in the competition's score.

    Example: ``{"_target_": "custom.losses.SoftClDiceLoss", "iterations": 3}``

    Args:
        iterations: erosions of the skeleton; at least half the thickness of the thickest structure, in voxels.
        smooth: added to numerator and denominator of both fractions.
        ignore_index: label value of ignored voxels.
    """

    def __init__(self, *, iterations: int = 3, smooth: float = 1.0, ignore_index: int = IGNORE_LABEL) -> None:
        super().__init__(ignore_index=ignore_index)
        self.iterations = iterations
        self.smooth = smooth

    def compute(
        self, logits: torch.Tensor, label: torch.Tensor, valid: torch.Tensor, *extras: torch.Tensor
    ) -> torch.Tensor:
        prediction = surface_probability(logits) * valid
        surface = (label == 1).to(prediction.dtype)
        precision = self._share(soft_skeleton(prediction, self.iterations), surface)
        sensitivity = self._share(soft_skeleton(surface, self.iterations), prediction)
        return (1 - 2 * precision * sensitivity / (precision + sensitivity + 1e-4)).mean()

    def _share(self, skeleton: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        inside = (skeleton * mask).flatten(1).sum(1)
        return (inside + self.smooth) / (skeleton.flatten(1).sum(1) + self.smooth)

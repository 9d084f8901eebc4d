"""Soft clDice: overlap of each skeleton with the other's mask."""

import torch

from ..ops.skeleton import soft_skeleton
from ..ops.target_layout import IGNORE_LABEL
from .masked import MaskedLoss, surface_probability


class SoftClDiceLoss(MaskedLoss):
    """Soft clDice (Shit et al., CVPR 2021, arXiv 2003.07311) of the surface, without the ignored voxels.

    ``1 - 2 T S / (T + S + 1e-4)`` with the topology precision ``T``, the share of the prediction's soft skeleton that
    lies in the label, and the topology sensitivity ``S``, the share of the label's skeleton that lies in the
    prediction; the mean over the batch. The value is that of ``monai.losses.SoftclDiceLoss`` on the surface channel
    alone. Prediction and label are 0 where the label is ignored, as in the competition's score, so the border of the
    annotated region cuts both alike.

    Args:
        iterations: erosions of the skeleton; at least half the thickness of the thickest structure, in voxels.
        smooth: added to numerator and denominator of both shares.
        ignore_index: label value of the voxels that are left out.
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

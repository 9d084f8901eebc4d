"""Soft clDice: overlap of skeletons with masks."""

from torch import Tensor

from ..ops.skeleton import soft_skeleton
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
    """

    def __init__(self, *, iterations: int = 3) -> None:
        super().__init__()
        self.iterations = iterations

    def compute(self, logits: Tensor, label: Tensor, valid: Tensor, *extras: Tensor) -> Tensor:
        prediction = surface_probability(logits) * valid
        surface = (label == 1).to(prediction.dtype)
        precision = _share(soft_skeleton(prediction, self.iterations), surface)
        sensitivity = _share(soft_skeleton(surface, self.iterations), prediction)
        return (1 - 2 * precision * sensitivity / (precision + sensitivity + 1e-4)).mean()


def _share(skeleton: Tensor, mask: Tensor) -> Tensor:
    """Share of each item's skeleton within the mask; both sums are smoothed by 1, as in MONAI."""
    return ((skeleton * mask).flatten(1).sum(1) + 1) / (skeleton.flatten(1).sum(1) + 1)

"""Recall of the label's medial surface."""

from torch import Tensor

from .masked import MaskedLoss, surface_probability


class MedialRecallLoss(MaskedLoss):
    """Skeleton recall (Kirchhoff et al., ECCV 2024, arXiv 2404.03010) on the medial surface of the label.

    ``1 - (sum of p over the medial surface + 1) / (its voxels + 1)``, the mean over the batch; a patch without surface
    gives 0. Small holes in thin sheets, which hardly affect Dice, weigh as much as the same area of a thick sheet. The
    skeleton is computed in the loader and not dilated, since sheets are hardly thicker than their medial surface.

    Example: ``{"_target_": "custom.losses.MedialRecallLoss"}``
    """

    reads = ("medial",)

    def compute(self, logits: Tensor, label: Tensor, valid: Tensor, *extras: Tensor) -> Tensor:
        medial = extras[0] * valid
        found = (surface_probability(logits) * medial).flatten(1).sum(1)
        return (1 - (found + 1) / (medial.flatten(1).sum(1) + 1)).mean()

"""Recall of the label's medial surface."""

import torch

from ..ops.target_layout import IGNORE_LABEL
from .masked import MaskedLoss, surface_probability


class MedialRecallLoss(MaskedLoss):
    """Skeleton recall (Kirchhoff et al., ECCV 2024, arXiv 2404.03010) on the medial surface of the label.

    ``1 - (sum of p over the medial surface + smooth) / (its voxels + smooth)``, the mean over the batch. Small holes in
    thin sheets, which hardly affect Dice, weigh as much as the same area of a thick sheet. The skeleton is computed in
    the loader and not dilated, since sheets are hardly thicker than their medial surface.

    Example: ``{"_target_": "custom.losses.MedialRecallLoss"}``

    Args:
        smooth: added to numerator and denominator; a patch without surface gives 0.
        ignore_index: label value of ignored voxels.
    """

    reads = ("medial",)

    def __init__(self, *, smooth: float = 1.0, ignore_index: int = IGNORE_LABEL) -> None:
        super().__init__(ignore_index=ignore_index)
        self.smooth = smooth

    def compute(
        self, logits: torch.Tensor, label: torch.Tensor, valid: torch.Tensor, *extras: torch.Tensor
    ) -> torch.Tensor:
        (medial,) = extras
        medial = medial * valid
        found = (surface_probability(logits) * medial).flatten(1).sum(1)
        return (1 - (found + self.smooth) / (medial.flatten(1).sum(1) + self.smooth)).mean()

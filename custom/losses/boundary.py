"""Surface distance: how far from the surface the prediction errs."""

import torch

from .masked import MaskedLoss, surface_probability


class SurfaceDistanceLoss(MaskedLoss):
    """Boundary loss (Kervadec et al., MIDL 2019, arXiv 1812.07032) on the signed distance made in the loader.

    The mean over the valid voxels of ``(p - y) * phi``: each wrong voxel counts by its distance to the true surface.
    ``phi`` is negative inside, so no term is negative, and the loss is 0 for the label itself. Subtracting the label
    ``y`` adds a constant to the published loss and leaves its gradient as it is.

    Args:
        ignore_index: label value of the voxels that are left out.
    """

    reads = ("distance",)

    def compute(
        self, logits: torch.Tensor, label: torch.Tensor, valid: torch.Tensor, *extras: torch.Tensor
    ) -> torch.Tensor:
        (distance,) = extras
        error = (surface_probability(logits) - (label == 1).to(logits.dtype)) * distance
        return (error * valid).sum() / valid.sum().clamp(min=1)

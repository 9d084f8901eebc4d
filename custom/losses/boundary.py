"""Boundary loss on the distance from the true surface."""

from torch import Tensor

from .masked import MaskedLoss, surface_probability


class SurfaceDistanceLoss(MaskedLoss):
    """Boundary loss (Kervadec et al., MIDL 2019, arXiv 1812.07032) on the signed distance computed in the loader.

    Mean of ``(p - y) * phi`` over the valid voxels: each wrong voxel is weighted by its distance to the true surface.
    ``phi`` is negative inside, so no term is negative, and the loss of the label itself is 0. Subtracting the label
    ``y`` shifts the published loss by a constant and does not change its gradient.

    Example: ``{"_target_": "custom.losses.SurfaceDistanceLoss"}``
    """

    reads = ("distance",)

    def compute(self, logits: Tensor, label: Tensor, valid: Tensor, *extras: Tensor) -> Tensor:
        (distance,) = extras
        error = (surface_probability(logits) - (label == 1).to(logits.dtype)) * distance
        return (error * valid).sum() / valid.sum().clamp(min=1)

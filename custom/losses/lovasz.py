"""The Lovász hinge of overlapping regions."""

import torch
import torch.nn.functional as F

from .regions import RegionLoss


class LovaszHingeLoss(RegionLoss):
    """Convex surrogate of ``1 - IoU`` on hinge errors, the mean over regions, in float32.

    Berman, Triki and Blaschko, The Lovász-Softmax loss, CVPR 2018 (arXiv 1705.08790): the voxels' errors
    ``max(0, 1 - logit * sign)`` are sorted from the largest down and weighted by what each adds to the Jaccard loss of
    the set of wrong voxels. Where a region is absent, only its worst false alarm counts.

    Args:
        batch: whether a region's voxels are sorted over the batch or slice by slice.
    """

    def __init__(self, *, batch: bool = True) -> None:
        super().__init__()
        self.batch = batch

    def compute(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        errors = F.relu(1 - logits * (2 * target - 1))
        errors, order = self._rows(errors).sort(dim=1, descending=True)
        weights = _jaccard_steps(self._rows(target).gather(1, order))
        return (errors * weights.to(errors.dtype)).sum(1).mean()

    def _rows(self, tensor: torch.Tensor) -> torch.Tensor:
        """``(B, R, ...)`` to ``(R, voxels of the batch)`` or ``(B * R, voxels of a slice)``."""
        return tensor.transpose(0, 1).flatten(1) if self.batch else tensor.flatten(2).flatten(0, 1)


def _jaccard_steps(sorted_target: torch.Tensor) -> torch.Tensor:
    """How much each voxel of ``(rows, voxels)``, added to the wrong ones before it, adds to the Jaccard loss."""
    # Counts are integers: a float32 sum of ones stops growing at 2 ** 24.
    hits = sorted_target.long().cumsum(1)
    total = hits[:, -1:]
    rank = torch.arange(1, hits.shape[1] + 1, device=hits.device)
    # The first `rank` voxels wrong: their region voxels leave the intersection, their others join the union.
    jaccard = 1 - (total - hits).double() / (total + rank - hits)
    return torch.diff(jaccard, dim=1, prepend=torch.zeros_like(jaccard[:, :1]))

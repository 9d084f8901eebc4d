"""Lovász hinge loss for overlapping regions."""

import torch
import torch.nn.functional as F

from .regions import RegionLoss


class LovaszHingeLoss(RegionLoss):
    """Convex surrogate of ``1 - IoU`` on hinge errors, the mean over regions, in float32.

    Berman, Triki and Blaschko, The Lovász-Softmax loss, CVPR 2018 (arXiv 1705.08790): the errors ``max(0, 1 - logit *
    sign)`` of the voxels are sorted in descending order and weighted by the increase of the Jaccard loss that each
    causes. If a region is absent, only its largest false positive counts.

    Example: ``{"_target_": "custom.losses.LovaszHingeLoss"}``

    Args:
        batch: whether voxels are sorted over the whole batch or for each slice.
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
    """Increase of the Jaccard loss by each voxel of ``(rows, voxels)``, when added to the wrong ones before it."""
    # Counts are integers: a float32 sum of ones stops growing at 2 ** 24.
    hits = sorted_target.long().cumsum(1)
    total = hits[:, -1:]
    rank = torch.arange(1, hits.shape[1] + 1, device=hits.device)
    # The first `rank` voxels wrong: their region voxels leave the intersection, their others join the union.
    jaccard = 1 - (total - hits).double() / (total + rank - hits)
    return torch.diff(jaccard, dim=1, prepend=torch.zeros_like(jaccard[:, :1]))

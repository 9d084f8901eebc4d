"""Signed distance to the surface of a mask."""

import math

import torch

_FAR = 2**14
"""A squared distance beyond every limit; with one step more it still fits into int16."""


def signed_distances(mask: torch.Tensor, limit: float) -> torch.Tensor:
    """Return the signed distances to the boundaries of masks, negative inside, clipped at ``limit``; no host wait.

    The boundary is between voxels: a mask voxel next to background is half a voxel inside. The inside of a sheet two
    voxels thick is then at -0.5; with distances between voxel centres, corrected by one inside, it would be at 0 and
    have no weight in a loss.

    The squared distance is the minimum over the axes' displacements, one axis after another (Felzenszwalb and
    Huttenlocher, 2012), of which the clipped one needs those up to the limit only.

    Args:
        mask: ``(B, D, H, W)``, bool, on any device.
        limit: largest distance, in voxels, up to 100; also used if a volume contains no boundary.

    Returns:
        ``(B, D, H, W)`` float32 in voxels, within [-limit, limit].

    Raises:
        ValueError: the limit is larger.
    """
    if limit > 100:
        raise ValueError(f"limit {limit}: expected up to 100 voxels")
    squared = torch.stack([~mask, mask]).to(torch.int16).mul_(_FAR)  # to the mask, and to its outside
    for axis in range(2, squared.ndim):
        n, nearest = squared.shape[axis], squared.clone()
        for step in range(1, min(math.floor(limit + 0.5), n - 1) + 1):
            there = squared + step**2
            for start, other in ((0, step), (step, 0)):
                here = nearest.narrow(axis, start, n - step)
                torch.minimum(here, there.narrow(axis, other, n - step), out=here)
        squared = nearest
    distance = squared.float().sqrt_().sub_(0.5).clamp_(max=limit)
    return torch.where(mask, -distance[1], distance[0])

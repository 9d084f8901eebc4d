"""Gaussian filter with a small radius: shifted additions, which torch vectorises on a CPU and runs on a GPU."""

import math
from collections.abc import Mapping

import torch


def gaussian(image: torch.Tensor, sigmas: Mapping[int, float], *, radius: int, edge: bool) -> torch.Tensor:
    """Filter some axes of a tensor.

    Example: ``gaussian(image, {2: 1.0, 3: 1.0}, radius=4, edge=True)``

    Args:
        image: floating, any shape.
        sigmas: standard deviation in voxels, by axis.
        radius: number of voxels on either side that are taken into account; smaller axes limit it.
        edge: whether edge values continue outside of the image; otherwise it is surrounded by zeros.

    Returns:
        a tensor of the same shape and dtype.
    """
    for axis, sigma in sigmas.items():
        n = image.shape[axis]
        reach = radius if edge else min(radius, n - 1)
        weights = [math.exp(-0.5 * (step / sigma) ** 2) for step in range(reach + 1)]
        total = weights[0] + 2 * sum(weights[1:])
        smooth = image * (weights[0] / total)
        if edge:
            ends = [image.narrow(axis, place, 1) for place in (0, n - 1)]
            shape = [reach if other == axis else size for other, size in enumerate(image.shape)]
            image = torch.cat([ends[0].expand(shape), image, ends[1].expand(shape)], axis)
        for step in range(1, reach + 1):
            weight = weights[step] / total
            if edge:
                smooth.add_(image.narrow(axis, reach - step, n), alpha=weight)
                smooth.add_(image.narrow(axis, reach + step, n), alpha=weight)
            else:
                smooth.narrow(axis, step, n - step).add_(image.narrow(axis, 0, n - step), alpha=weight)
                smooth.narrow(axis, 0, n - step).add_(image.narrow(axis, step, n - step), alpha=weight)
        image = smooth
    return image

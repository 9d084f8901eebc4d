"""Differentiable skeleton of a probability map, and medial surface of a binary mask."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

Step = tuple[int, int]
"""An axis and -1, 0 or 1: the offset to a neighbour."""


def soft_skeleton(image: torch.Tensor, iterations: int) -> torch.Tensor:
    """Return the soft morphological skeleton: what successive openings of ``image`` remove (clDice, arXiv 2003.07311).

    The values are those of ``monai.losses.cldice.soft_skel``, with less time and memory: every erosion is computed
    once, minima and maxima are taken axis by axis without indices, and only two tensors per iteration are saved for the
    backward pass, which finds the source voxel of each minimum or maximum by comparison. If neighbours are equal, one
    of them gets the whole gradient.

    Args:
        image: ``(B, C, D, H, W)`` or ``(B, C, H, W)``, floating, values in [0, 1].
        iterations: erosions after the first opening; structures up to ``2 * iterations`` voxels thick are reduced.

    Returns:
        the skeleton, of the image's shape and dtype, values in [0, 1]. Differentiable once.
    """
    return _SoftSkeleton.apply(image, iterations)


def medial_surface(mask: np.ndarray) -> np.ndarray:
    """Return the medial surface of a mask: the union of the 2-D skeletons of its slices along the three axes.

    3-D thinning reduces a sheet to curves; the union of the slices' skeletons over all three directions is a surface,
    one or two voxels thick.

    Args:
        mask: ``(D, H, W)``, bool or 0/1.

    Returns:
        ``(D, H, W)`` bool, a subset of the mask.
    """
    from skimage.morphology import skeletonize

    mask = np.ascontiguousarray(mask, dtype=bool)
    medial = np.zeros_like(mask)
    for axis in range(3):
        slices, out = np.moveaxis(mask, axis, 0), np.moveaxis(medial, axis, 0)
        for index in np.flatnonzero(slices.any(axis=(1, 2))):
            out[index] |= skeletonize(slices[index])
    return medial


class _SoftSkeleton(torch.autograd.Function):
    """The skeleton and its gradient.

    With e[0] the image, e[k+1] = erosion of e[k] and d[k] = relu(e[k] - dilation of e[k+1]), the skeleton is
    1 - product over k of (1 - d[k]); ``left`` is the running product.
    """

    @staticmethod
    def forward(ctx, image: torch.Tensor, iterations: int) -> torch.Tensor:
        eroded, left = [image], [torch.ones_like(image)]
        for _ in range(iterations + 1):
            eroded.append(_erode(eroded[-1]))
            lost = _lost_by_opening(eroded[-2], _dilate(eroded[-1])[-1])
            left.append(torch.addcmul(left[-1], left[-1], lost, value=-1))
        ctx.iterations = iterations
        ctx.save_for_backward(*eroded, *left[1:-1])
        return 1 - left[-1]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        eroded, left = ctx.saved_tensors[: ctx.iterations + 2], ctx.saved_tensors[ctx.iterations + 2 :]
        neighbours = _neighbours(gradient.ndim)
        to_eroded = torch.zeros_like(gradient)
        for k in range(ctx.iterations, -1, -1):
            dilated = _dilate(eroded[k + 1])
            lost = _lost_by_opening(eroded[k], dilated[-1])
            to_lost = lost.sign().mul_(gradient)
            if k > 0:
                to_lost *= left[k - 1]
                gradient = gradient * (1 - lost)
            to_eroded.sub_(_dilate_adjoint(to_lost, dilated))
            to_eroded = _choice_adjoint(to_eroded, eroded[k], eroded[k + 1], neighbours).add_(to_lost)
        return to_eroded, None


def _lost_by_opening(image: torch.Tensor, opened: torch.Tensor) -> torch.Tensor:
    """Clipped, since the opening can exceed the image: erosion uses six neighbours, dilation all 26."""
    return torch.sub(image, opened).clamp_(min=0)


def _erode(image: torch.Tensor) -> torch.Tensor:
    return _choose(torch.minimum, image, _neighbours(image.ndim))


def _dilate(image: torch.Tensor) -> list[torch.Tensor]:
    """Maximum over the 3 x 3 x 3 neighbourhood, one axis after the other; returns the image and each stage."""
    stages = [image]
    for axis in range(2, image.ndim):
        stages.append(_choose(torch.maximum, stages[-1], _along(axis)))
    return stages


def _dilate_adjoint(gradient: torch.Tensor, stages: Sequence[torch.Tensor]) -> torch.Tensor:
    for axis in range(gradient.ndim - 1, 1, -1):
        gradient = _choice_adjoint(gradient, stages[axis - 2], stages[axis - 1], _along(axis))
    return gradient


def _neighbours(ndim: int) -> list[Step]:
    return [(2, 0), *((axis, shift) for axis in range(2, ndim) for shift in (-1, 1))]


def _along(axis: int) -> list[Step]:
    return [(axis, 0), (axis, -1), (axis, 1)]


def _shifted(tensor: torch.Tensor, step: Step) -> torch.Tensor:
    """Voxels that have a neighbour at the opposite step: ``_shifted(a, step)`` aligns with ``_shifted(b, -step)``."""
    axis, shift = step
    return tensor.narrow(axis, max(shift, 0), tensor.shape[axis] - abs(shift))


def _choose(pick: Callable, image: torch.Tensor, steps: Sequence[Step]) -> torch.Tensor:
    """Apply ``pick`` (minimum or maximum) to each voxel and its neighbours within the image."""
    result = image.clone()
    for axis, shift in steps[1:]:
        here = _shifted(result, (axis, -shift))
        pick(here, _shifted(image, (axis, shift)), out=here)
    return result


def _choice_adjoint(
    gradient: torch.Tensor, image: torch.Tensor, result: torch.Tensor, steps: Sequence[Step]
) -> torch.Tensor:
    """Pass the gradient of each chosen value to the first neighbour with this value."""
    out, rest, scratch = torch.zeros_like(gradient), gradient.clone(), torch.empty_like(gradient)
    for axis, shift in steps:
        source, here = (axis, shift), (axis, -shift)
        # Comparing into floats is several times faster on a CPU than multiplying by a boolean mask.
        taken = torch.eq(_shifted(image, source), _shifted(result, here), out=_shifted(scratch, here))
        taken *= _shifted(rest, here)
        _shifted(out, source).add_(taken)
        _shifted(rest, here).sub_(taken)
    return out

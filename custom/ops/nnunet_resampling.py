"""Resampling by nnU-Net's rules: anisotropic volumes slice by slice, the coarse axis by the nearest slice."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from skimage.transform import resize

ANISOTROPIC = 3
"""Ratio of the largest to the smallest spacing above which a volume is resampled slice by slice."""


def new_shape(shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]) -> tuple[int, ...]:
    """Return the shape of a volume after resampling from one spacing to another."""
    return tuple(round(old / new * size) for old, new, size in zip(spacing, target, shape, strict=True))


def separate_axis(current: Sequence[float], new: Sequence[float], force: bool | None = None) -> int | None:
    """Return the axis across which slices are resampled one by one; None: the volume is resampled as a whole.

    It is the axis with the largest of three spacings, if one volume is anisotropic and the axis is the only one.

    Args:
        force: whether to resample slice by slice; None: if a spacing is anisotropic, the current one first.
    """
    if force is False:
        return None
    chosen = [spacing for spacing in (current, new) if force or max(spacing) / min(spacing) > ANISOTROPIC]
    axes = [axis for axis, length in enumerate(chosen[0]) if length == max(chosen[0])] if chosen else []
    return axes[0] if len(axes) == 1 else None


def resample(volume: np.ndarray, shape: Sequence[int], *, axis: int | None, order: int) -> np.ndarray:
    """Return a volume resampled to a shape.

    Splines of order 1 are computed by torch, others, as in nnU-Net, by scikit-image.

    Args:
        volume: (D, H, W) float32.
        axis: of slices to resample one by one, see :func:`separate_axis`; along it, the nearest slice is taken.
    """
    if tuple(shape) == volume.shape:
        return volume
    if axis is None:
        return _resized(volume, shape, order)
    slices = np.moveaxis(volume, axis, 0)
    plane = [length for other, length in enumerate(shape) if other != axis]
    if slices.shape[1:] != tuple(plane):
        slices = np.stack([_resized(each, plane, order) for each in slices])
    count = shape[axis]
    nearest = np.floor(len(slices) / count * (np.arange(count) + 0.5)).astype(int).clip(0, len(slices) - 1)
    return np.moveaxis(slices[nearest], 0, axis)


def _resized(values: np.ndarray, shape: Sequence[int], order: int) -> np.ndarray:
    if order != 1:
        return resize(values, shape, order, mode="edge", anti_aliasing=False).astype(np.float32, copy=False)
    if values.ndim == 2:  # in float64, for the positions: in float32 they would be wrong by 1e-5 of a voxel
        double = torch.from_numpy(np.asarray(values, np.float64))[None, None]
        return F.interpolate(double, tuple(shape), mode="bilinear")[0, 0].float().numpy()
    planes = np.stack([_resized(each, shape[1:], order) for each in values])
    positions = ((np.arange(shape[0]) + 0.5) * len(values) / shape[0] - 0.5).clip(0, len(values) - 1)
    result = np.empty(shape, np.float32)
    for plane, position in zip(result, positions, strict=True):
        low = int(position)
        share = np.float32(position - low)
        np.multiply(planes[low], 1 - share, out=plane)
        if share:
            plane += share * planes[low + 1]
    return result

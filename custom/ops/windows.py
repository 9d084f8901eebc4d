"""Positions of sliding windows, and weights of their voxels."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

Box = tuple[tuple[int, int], ...]
"""First voxel and end (exclusive) along each axis."""

LEAST_WEIGHT = 1e-3
"""Lower limit of the weights, as in MONAI, so that the corners of a window count."""


def window_starts(size: int, roi: int, step: int) -> list[int]:
    """Return the first voxels of the windows along one axis, as in :func:`monai.inferers.sliding_window_inference`.

    Args:
        size: length of the axis, at least ``roi``.
        step: distance between windows; the last one is moved back to end at the border.
    """
    starts = list(range(0, size - roi, step))
    return [*starts, size - roi]


def even_starts(size: int, roi: int, step: float) -> list[int]:
    """Return the first voxels of windows that are spread evenly along one axis, as in nnU-Net.

    Args:
        size: length of the axis, at least ``roi``.
        step: largest distance between windows; the actual one is the largest that ends at the border.
    """
    gaps = math.ceil((size - roi) / step - 1e-6)  # the step may be 100 * (1 - 0.8)
    return [round((size - roi) / gaps * index) for index in range(gaps + 1)] if gaps else [0]


def nnunet_weights(roi: Sequence[int]) -> torch.Tensor:
    """Return nnU-Net's weights of a window's voxels ``(*roi)``, float32 with values of float16.

    A Gaussian with a sigma of an eighth of the window, 10 at voxel ``roi // 2``, zero beyond four sigma. nnU-Net rounds
    it to float16, and then replaces zeros by the smallest weight.
    """
    weights = torch.full((), 10.0, dtype=torch.float64)
    for length in roi:
        position = torch.arange(length, dtype=torch.float64) - length // 2
        profile = torch.exp(-0.5 * (position / (length / 8)) ** 2)
        profile[position.abs() > int(4 * length / 8 + 0.5)] = 0
        weights = weights.unsqueeze(-1) * profile
    weights = weights.half().float()
    return weights.clamp(min=weights[weights > 0].min())


def gaussian_weights(roi: Sequence[int], sigma_scale: float = 0.125) -> torch.Tensor:
    """Return weights of a window's voxels ``(*roi)``, float32: a Gaussian, 1 at the centre, with a lower limit.

    Sigma is ``sigma_scale * roi``. Equal to MONAI's importance map.
    """
    weights = torch.ones(())
    for length in roi:
        position = torch.arange(length, dtype=torch.float32) - (length - 1) / 2
        weights = weights.unsqueeze(-1) * torch.exp(-(position**2) / (2 * (sigma_scale * length) ** 2))
    return weights.clamp(min=LEAST_WEIGHT)


def padding_to(shape: Sequence[int], roi: Sequence[int]) -> list[tuple[int, int]]:
    """Return the padding before and after each axis of a volume smaller than the window."""
    missing = [max(length - size, 0) for size, length in zip(shape, roi, strict=True)]
    return [(gap // 2, gap - gap // 2) for gap in missing]


class Part(NamedTuple):
    """What must be read and predicted so that a box has the same values as in the prediction of the whole volume."""

    read: Box
    """Voxels of the volume that the windows cover."""
    padding: list[tuple[int, int]]
    """Padding that repeats border values; only for volumes smaller than the window."""
    starts: list[list[int]]
    """First voxels of the windows along each axis, in the padded part."""
    inner: Box
    """Position of the box in the padded part."""

    @property
    def size(self) -> tuple[int, ...]:
        """(D, H, W) of the padded part, in voxels."""
        return tuple(
            stop - start + before + behind
            for (start, stop), (before, behind) in zip(self.read, self.padding, strict=True)
        )

    @property
    def count(self) -> int:
        z, y, x = map(len, self.starts)
        return z * y * x


@dataclass(frozen=True)
class WindowGrid:
    """The windows of a whole volume.

    Args:
        shape: (D, H, W) of the volume, in voxels.
        stride: (D, H, W) distance between windows.
        even: (D, H, W) largest distance of windows that are spread evenly, see :func:`even_starts`, instead.
    """

    shape: Sequence[int]
    roi: Sequence[int]
    stride: Sequence[int]
    even: Sequence[float] | None = None

    def part(self, box: Box | None = None) -> Part:
        """Return all windows that overlap a box of the volume, by default the whole volume.

        A voxel is covered by the same windows in the same order whatever the box, so that blending gives bitwise equal
        values.
        """
        box = tuple((0, size) for size in self.shape) if box is None else box
        place, steps = (window_starts, self.stride) if self.even is None else (even_starts, self.even)
        axes = zip(self.shape, self.roi, padding_to(self.shape, self.roi), box, steps, strict=True)
        parts = (
            _axis_part(place(size + sum(padding), roi, step), size, roi, padding, span)
            for size, roi, padding, span, step in axes
        )
        return Part(*map(list, zip(*parts, strict=True)))


def _axis_part(starts: list[int], size: int, roi: int, padding: tuple[int, int], box: tuple[int, int]):
    """One axis of :class:`Part`, given the first voxels of all windows."""
    before = padding[0]
    start, stop = box[0] + before, box[1] + before
    starts = starts[bisect_right(starts, start - roi) : bisect_left(starts, stop)]
    first, last = starts[0], starts[-1] + roi
    read = (max(first - before, 0), min(last - before, size))
    return read, padding, [start - first for start in starts], (start - first, stop - first)

"""Where a sliding window stops, and how much each of its voxels counts."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

Box = tuple[tuple[int, int], ...]
"""The first voxel and the one behind the last, along each axis."""

LEAST_WEIGHT = 1e-3
"""Floor of the weights, MONAI's: without it the corners of a window would count for nothing."""


def window_starts(size: int, roi: int, step: int) -> list[int]:
    """First voxels of the windows along one axis, the grid of :func:`monai.inferers.sliding_window_inference`.

    Args:
        size: length of the axis, at least ``roi``.
        roi: length of the window.
        step: distance between windows; the last one is moved back to end at the border.
    """
    starts = list(range(0, size - roi, step))
    return [*starts, size - roi]


def gaussian_weights(roi: Sequence[int], sigma_scale: float = 0.125) -> torch.Tensor:
    """Weights of a window's voxels ``(*roi)``, float32: a Gaussian with sigma = ``sigma_scale * roi``, 1 at the centre.

    Equal to MONAI's importance map with its floor.
    """
    weights = torch.ones(())
    for length in roi:
        position = torch.arange(length, dtype=torch.float32) - (length - 1) / 2
        weights = weights.unsqueeze(-1) * torch.exp(-(position**2) / (2 * (sigma_scale * length) ** 2))
    return weights.clamp(min=LEAST_WEIGHT)


def padding_to(shape: Sequence[int], roi: Sequence[int]) -> list[tuple[int, int]]:
    """How much goes before and behind each axis of a volume that is smaller than the window."""
    missing = [max(length - size, 0) for size, length in zip(shape, roi, strict=True)]
    return [(gap // 2, gap - gap // 2) for gap in missing]


class Part(NamedTuple):
    """What has to be read and predicted so that one box of a volume is as if the whole had been."""

    read: Box
    """Voxels of the volume that the windows see."""
    padding: list[tuple[int, int]]
    """What goes round them, by repeating the border; nothing but where the volume is smaller than the window."""
    starts: list[list[int]]
    """First voxels of the windows along each axis, counted in what was read and padded."""
    inner: Box
    """Where the box lies in what was read and padded."""

    @property
    def size(self) -> tuple[int, ...]:
        """Of what was read and padded, in voxels."""
        return tuple(
            stop - start + before + behind
            for (start, stop), (before, behind) in zip(self.read, self.padding, strict=True)
        )

    @property
    def count(self) -> int:
        """Number of windows."""
        z, y, x = map(len, self.starts)
        return z * y * x


@dataclass(frozen=True)
class WindowGrid:
    """The windows of a whole volume, whatever part of it is looked at.

    Args:
        shape: (D, H, W) of the volume, in voxels.
        roi: (D, H, W) of the window.
        stride: (D, H, W) distance between windows.
    """

    shape: Sequence[int]
    roi: Sequence[int]
    stride: Sequence[int]

    def part(self, box: Box | None = None) -> Part:
        """All windows that reach into a box of the volume; into any of it by default.

        A voxel of the box is seen by the same windows in the same order, row by row and plane by plane, whatever box
        it is asked for with: blending gives it the same value to the last bit.
        """
        box = tuple((0, size) for size in self.shape) if box is None else box
        axes = zip(self.shape, self.roi, self.stride, padding_to(self.shape, self.roi), box, strict=True)
        return Part(*map(list, zip(*(_axis_part(*axis) for axis in axes), strict=True)))


def _axis_part(size: int, roi: int, step: int, padding: tuple[int, int], box: tuple[int, int]):
    """One axis of :class:`Part`."""
    before = padding[0]
    start, stop = box[0] + before, box[1] + before
    starts = window_starts(size + sum(padding), roi, step)
    starts = starts[bisect_right(starts, start - roi) : bisect_left(starts, stop)]
    first, last = starts[0], starts[-1] + roi
    read = (max(first - before, 0), min(last - before, size))
    return read, padding, [start - first for start in starts], (start - first, stop - first)

"""Where a sliding window stops, and how much each of its voxels counts."""

from collections.abc import Sequence

import torch

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

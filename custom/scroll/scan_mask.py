"""Where a scroll was scanned: elsewhere its volume is 0, and a prediction there is cleared."""

from collections.abc import Sequence

import numpy as np

EMPTY = 0
"""Grey value outside the scanned object."""


def scanned(grey: np.ndarray, axes: Sequence[int] = (0, 1, 2)) -> np.ndarray:
    """Which voxels are not empty, or touch one that is not, also at a corner.

    A single dark voxel of the CT therefore punctures no surface.

    Args:
        grey: (D, H, W) grey values, with a plane more on either side along the first axis.
        axes: along which neighbours count.

    Returns:
        (D - 2, H, W) bool.
    """
    for axis in axes:
        grey = _largest_of_three(grey, axis)
    return grey[1:-1] != EMPTY


def _largest_of_three(values: np.ndarray, axis: int) -> np.ndarray:
    """Each voxel's largest value among itself and its two neighbours along an axis."""
    values = np.moveaxis(values, axis, 0)
    largest = values.copy()
    np.maximum(largest[1:], values[:-1], out=largest[1:])
    np.maximum(largest[:-1], values[1:], out=largest[:-1])
    return np.moveaxis(largest, 0, axis)

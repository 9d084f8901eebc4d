"""Bounding boxes."""

import numpy as np


def bounding_box(mask: np.ndarray) -> tuple[slice, ...] | None:
    """Return the smallest box that contains all of a boolean array's True values; None if there are none."""
    box = []
    for axis in range(mask.ndim):
        used = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        if not used.size:
            return None
        box.append(slice(int(used[0]), int(used[-1]) + 1))
    return tuple(box)

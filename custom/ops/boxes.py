"""Bounding boxes."""

import numpy as np

NONZERO = "nonzero"
"""Key of a volume's metadata: box ``(3, 2)`` of the voxels that were not 0 in the file, first and end."""


def bounding_box(mask: np.ndarray) -> tuple[slice, ...] | None:
    """Return the smallest box that contains all of a boolean array's True values; None if there are none."""
    box = []
    for axis in range(mask.ndim):
        used = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        if not used.size:
            return None
        box.append(slice(int(used[0]), int(used[-1]) + 1))
    return tuple(box)

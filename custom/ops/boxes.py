"""Bounding boxes."""

import numpy as np
from scipy import ndimage

NONZERO = "nonzero"
"""Key of a volume's metadata: box ``(3, 2)`` of the voxels that were not 0 in the file, first and end."""


def bounding_box(mask: np.ndarray) -> tuple[slice, ...] | None:
    """Return the smallest box that contains all of a boolean array's True values; None if there are none."""
    return ndimage.find_objects(mask.view(np.int8), 1)[0]

"""The layout of a surface target: everything the losses compare a prediction with, in the channels of one tensor.

One tensor, because then whatever resizes a target for deep supervision, moves it to a device or collates it treats
all parts alike, and because MONAI's trainer hands exactly one target to the loss. The label comes first, with the
ignore label still in it, so that a loss for plain labels reads a full target as well; the mask of valid voxels is
``label != IGNORE_LABEL`` and needs no channel.
"""

import numpy as np

from .distance import signed_distance
from .skeleton import medial_surface

IGNORE_LABEL = 2
"""The competition's label of voxels nobody annotated."""

TARGET_CHANNELS = ("label", "medial", "distance")
"""Label {0, 1, ignore}; medial surface {0, 1}; signed distance to the surface in units of its limit, in [-1, 1]."""


def surface_target(label: np.ndarray, max_distance: float) -> np.ndarray:
    """The target of one patch.

    The medial surface and the distance are those of the voxels labelled 1; an ignored voxel is background to them.

    Args:
        label: ``(D, H, W)``, values {0, 1, ignore}, any dtype.
        max_distance: where the distance is cut off, in voxels.

    Returns:
        ``(3, D, H, W)`` float32, the channels of :data:`TARGET_CHANNELS`.
    """
    surface = label == 1
    return np.stack(
        [label, medial_surface(surface), signed_distance(surface, max_distance) / max_distance],
        dtype=np.float32,
        casting="unsafe",
    )

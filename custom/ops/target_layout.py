"""Layout of the targets of surface losses, as channels of one tensor.

A single tensor, since MONAI's trainer passes one target to the loss, and so that resizing for deep supervision,
transfer and collation treat all parts alike. The label comes first and contains the ignored label, so that losses for
plain labels also work; the mask of valid voxels is ``label != IGNORE_LABEL``.
"""

import numpy as np
import torch

from .distance import signed_distances
from .skeleton import medial_surface
from .thinning import medial_surfaces

IGNORE_LABEL = 2
"""The competition's label of unannotated voxels."""

TARGET_CHANNELS = ("label", "medial", "distance")
"""Label {0, 1, ignore}; medial surface {0, 1}; signed distance to the surface in units of its limit, in [-1, 1]."""


def surface_targets(label: torch.Tensor, max_distance: float) -> torch.Tensor:
    """Return the targets of a batch, on its device.

    Medial surface and distance are those of the voxels labelled 1; ignored voxels count as background.

    Args:
        label: ``(B, D, H, W)``, values {0, 1, ignore}, any dtype.
        max_distance: where the distance is clipped, in voxels.

    Returns:
        ``(B, 3, D, H, W)`` float32, the channels of :data:`TARGET_CHANNELS`.
    """
    surface = label == 1
    if label.device.type == "cpu":
        medial = torch.from_numpy(np.stack([medial_surface(one) for one in surface.numpy()]))
    else:  # the same but for very wide regions
        medial = medial_surfaces(surface)
    return torch.stack([label.float(), medial.float(), signed_distances(surface, max_distance) / max_distance], 1)

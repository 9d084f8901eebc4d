"""Distance of each voxel to the surface of a mask."""

import numpy as np


def signed_distance(mask: np.ndarray, limit: float) -> np.ndarray:
    """Signed distance to the boundary of ``mask``, negative inside, cut off at ``limit``.

    The boundary runs between the voxels: a voxel of the mask beside one of the background lies half a voxel inside.
    So the inside of a sheet two voxels thick is at -0.5 and not, as with distances between voxel centres of which one
    is taken off inside, at 0, where a loss could not tell it from nothing.

    Args:
        mask: ``(D, H, W)``, bool or 0/1.
        limit: largest distance told apart, in voxels; what has no boundary in the volume gets it too.

    Returns:
        ``(D, H, W)`` float32 in voxels, within [-limit, limit].
    """
    from edt import edt

    mask = np.ascontiguousarray(mask, dtype=bool)
    # Both sides in one pass: edt takes each value for an object of its own, and 0 for no object.
    distance = edt(mask.view(np.uint8) + np.uint8(1))
    distance = np.minimum(distance - np.float32(0.5), np.float32(limit))
    return np.negative(distance, out=distance, where=mask)

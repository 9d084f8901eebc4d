"""Signed distance to the surface of a mask."""

import numpy as np


def signed_distance(mask: np.ndarray, limit: float) -> np.ndarray:
    """Return the signed distance to the boundary of ``mask``, negative inside, clipped at ``limit``.

    The boundary is between voxels: a mask voxel next to background is half a voxel inside. The inside of a sheet two
    voxels thick is then at -0.5; with distances between voxel centres, corrected by one inside, it would be at 0 and
    have no weight in a loss.

    Args:
        mask: ``(D, H, W)``, bool or 0/1.
        limit: largest distance, in voxels; also used if the volume contains no boundary.

    Returns:
        ``(D, H, W)`` float32 in voxels, within [-limit, limit].
    """
    from edt import edt

    mask = np.ascontiguousarray(mask, dtype=bool)
    # Both sides in one pass: edt treats each non-zero value as a separate object.
    distance = edt(mask.view(np.uint8) + np.uint8(1))
    distance = np.minimum(distance - np.float32(0.5), np.float32(limit))
    return np.negative(distance, out=distance, where=mask)

"""Pressing sheets together: a map that shortens the dark gaps between bright sheets and leaves the sheets alone.

Columns run across the sheets. Each voxel of a column is given a length: 1 in a sheet, less in a gap; the voxels laid
end to end make the compressed column, about the middle of the volume. Lengths are between 0 and 1, so the map is
monotone in every column: nothing folds, and no sheet overtakes another.
"""

import numpy as np
from scipy import ndimage

SMOOTHING = 1.0
"""Width (voxels) of the smoothing of the image before gaps are sought in it, against noise."""

LATERAL_SMOOTHING = 4.0
"""Width (voxels) of the smoothing of the gaps across columns, so that neighbours are compressed alike."""

MASK_SMOOTHING = 0.6
"""Width (voxels) of the smoothing of a moved mask, about the smallest that mends what sampling tears."""


def sheet_axis(image: np.ndarray) -> int:
    """The axis of ``(D, H, W)`` along which smoothed grey values change most: the one that crosses the sheets."""
    smooth = ndimage.uniform_filter(image, 3)
    return int(np.argmax([np.square(np.diff(smooth, axis=axis)).mean() for axis in range(3)]))


def gaps(image: np.ndarray, axis: int) -> np.ndarray:
    """How much each voxel is gap: 0 in the brighter half of the range, 1 in the darkest fifth of the voxels.

    Voxels that have exactly the lowest value are taken for the mask around the scroll, where nothing was scanned; they
    are no gap.

    Args:
        image: ``(D, H, W)`` floating; sheets brighter than what is between them.
        axis: the axis that crosses the sheets.

    Returns:
        ``(D, H, W)`` float32 in [0, 1].
    """
    scanned = image > image.min()
    if not scanned.any():
        return np.zeros(image.shape, dtype=np.float32)
    smooth = ndimage.gaussian_filter(image, SMOOTHING)
    dark, bright = np.percentile(smooth[scanned][::8], (20, 80))
    middle = (dark + bright) / 2
    gap = np.clip((middle - smooth) / max(middle - dark, 1e-6), 0, 1).astype(np.float32)
    gap[~scanned] = 0
    sigma = [LATERAL_SMOOTHING] * 3
    sigma[axis] = 0
    return ndimage.gaussian_filter(gap, sigma)


def shear(gap: np.ndarray, axis: int) -> float:
    """How far neighbouring columns would slide along each other for a strength of 1, in voxels.

    The 99th percentile over the volume. It is large where columns do not cross the sheets but run along them.
    """
    slide = np.cumsum(gap, axis=axis)
    slide -= np.take(slide, [gap.shape[axis] // 2], axis=axis)
    others = [other for other in range(3) if other != axis]
    return max(float(np.percentile(np.abs(np.diff(slide, axis=other)), 99)) for other in others)


def compress(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each voxel of the compressed columns comes from.

    Args:
        columns: ``(..., N)`` length of each voxel, in (0, 1]. A stretch of voxels of length 1 is moved as a whole.

    Returns:
        index: ``(..., N)`` int64, the voxel that covers the centre of each voxel of the result; -1 beyond the ends of
            the shortened column.
        position: ``(..., N)`` float64, the exact position in the column, to interpolate at; the column is mirrored
            beyond its ends.
    """
    n = columns.shape[-1]
    rows = columns.reshape(-1, n).astype(np.float64)
    edges = np.concatenate([np.zeros((len(rows), 1)), np.cumsum(rows, axis=1)], axis=1)
    edges += n // 2 - edges[:, n // 2 : n // 2 + 1]

    centres = np.arange(n) + 0.5
    before, after = edges[:, :1] - centres, centres - edges[:, -1:]
    position = np.where(before > 0, before, n - after) - 0.5
    index = np.full(rows.shape, -1)
    # A voxel no longer than 1 covers the centre of at most one voxel of the result.
    first = np.ceil(edges - 0.5).astype(np.int64)
    row, source = np.nonzero(first[:, 1:] > first[:, :-1])
    target = first[row, source]
    index[row, target] = source
    position[row, target] = source + (target + 0.5 - edges[row, source]) / rows[row, source] - 0.5
    return index.reshape(columns.shape), position.reshape(columns.shape)


def interpolate(columns: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Linear interpolation of ``(..., N)`` at ``position`` along the last axis; beyond the ends the last value.

    What is read is within the range of ``columns``, whatever rounding does.
    """
    position = np.clip(position, 0, columns.shape[-1] - 1)
    below = position.astype(np.int64)
    above = np.minimum(below + 1, columns.shape[-1] - 1)
    part = (position - below).astype(columns.dtype)
    low = np.take_along_axis(columns, below, axis=-1)
    read = low + part * (np.take_along_axis(columns, above, axis=-1) - low)
    return np.clip(read, columns.min(), columns.max(), out=read)


def move_mask(columns: np.ndarray, position: np.ndarray) -> np.ndarray:
    """The mask ``(D, H, N)`` at ``position``: interpolated, smoothed a little in all directions, cut at one half.

    A sheet two voxels thick that climbs one voxel a column hangs together by the faces of one voxel. The nearest voxel
    of each column for itself tears hundreds of pinholes into the sheets of a patch.
    """
    moved = interpolate(columns.astype(np.float32), position)
    return ndimage.gaussian_filter(moved, MASK_SMOOTHING) > 0.5

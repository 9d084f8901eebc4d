"""Compression of sheets: a map that shortens the dark gaps between bright sheets.

Columns run across the sheets. Each voxel of a column is assigned a length: 1 in a sheet, less in a gap; the
concatenated voxels form the compressed column, centred in the volume. Lengths are between 0 and 1, so the map is
monotonic in every column: nothing folds, and the order of sheets is preserved.
"""

import numpy as np
from scipy import ndimage

SMOOTHING = 1.0
"""Sigma (voxels) of smoothing the image before detecting gaps, against noise."""

LATERAL_SMOOTHING = 4.0
"""Sigma (voxels) of smoothing the gaps across columns, so that neighbours are compressed alike."""

MASK_SMOOTHING = 0.6
"""Sigma (voxels) of smoothing a resampled mask, about the smallest that closes the holes due to resampling."""


def sheet_axis(image: np.ndarray) -> int:
    """Return the axis of ``(D, H, W)`` along which smoothed grey values change most: the one across the sheets."""
    smooth = ndimage.uniform_filter(image, 3)
    return int(np.argmax([np.square(np.diff(smooth, axis=axis)).mean() for axis in range(3)]))


def gaps(image: np.ndarray, axis: int) -> np.ndarray:
    """Return a gap weight for each voxel: 0 in the brighter half of the range, 1 in the darkest fifth of the voxels.

    Voxels with exactly the lowest value are outside of the scan, and no gap.

    Args:
        image: ``(D, H, W)`` floating; sheets are brighter than the gaps.
        axis: the axis across the sheets.

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
    """Return the displacement between neighbouring columns for a strength of 1, in voxels.

    It is the 99th percentile over the volume, and large if columns run along the sheets.
    """
    slide = np.cumsum(gap, axis=axis)
    slide -= np.take(slide, [gap.shape[axis] // 2], axis=axis)
    others = [other for other in range(3) if other != axis]
    return max(float(np.percentile(np.abs(np.diff(slide, axis=other)), 99)) for other in others)


def compress(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the source of each voxel of the compressed columns.

    Args:
        columns: ``(..., N)`` length of each voxel, in (0, 1]. A run of voxels of length 1 is moved as a whole.

    Returns:
        index: ``(..., N)`` int64, the voxel that covers the centre of each voxel of the result; -1 beyond the ends of
            the shortened column.
        position: ``(..., N)`` float64, the exact position in the column, for interpolation; the column is mirrored
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
    # A voxel of length up to 1 covers the centre of at most one voxel of the result.
    first = np.ceil(edges - 0.5).astype(np.int64)
    row, source = np.nonzero(first[:, 1:] > first[:, :-1])
    target = first[row, source]
    index[row, target] = source
    position[row, target] = source + (target + 0.5 - edges[row, source]) / rows[row, source] - 0.5
    return index.reshape(columns.shape), position.reshape(columns.shape)


def interpolate(columns: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Interpolate ``(..., N)`` linearly at ``position`` along the last axis; beyond the ends the last value is used.

    Results are clipped to the range of ``columns``, against rounding.
    """
    position = np.clip(position, 0, columns.shape[-1] - 1)
    below = position.astype(np.int64)
    above = np.minimum(below + 1, columns.shape[-1] - 1)
    part = (position - below).astype(columns.dtype)
    low = np.take_along_axis(columns, below, axis=-1)
    read = low + part * (np.take_along_axis(columns, above, axis=-1) - low)
    return np.clip(read, columns.min(), columns.max(), out=read)


def move_mask(columns: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Resample the mask ``(D, H, N)`` at ``position``: interpolated, smoothed slightly, and thresholded at one half.

    In an oblique sheet two voxels thick, neighbouring columns are connected by the face of a single voxel, so that
    nearest-neighbour resampling of each column would cause hundreds of pinholes in a patch.
    """
    moved = interpolate(columns.astype(np.float32), position)
    return ndimage.gaussian_filter(moved, MASK_SMOOTHING) > 0.5

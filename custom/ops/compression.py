"""Compression of sheets: a map that shortens the dark gaps between bright sheets.

Columns run across the sheets. Each voxel of a column is assigned a length: 1 in a sheet, less in a gap; the
concatenated voxels form the compressed column, centred in the volume. Lengths are between 0 and 1, so the map is
monotonic in every column: nothing folds, and the order of sheets is preserved.

Tensors have the columns along the first axis, (N, A, B): the columns of a plane are computed together.
"""

import numpy as np
import torch
import torch.nn.functional as F

from .gaussian import gaussian

SMOOTHING = 1.0
"""Sigma (voxels) of smoothing the image before detecting gaps, against noise."""

LATERAL_SMOOTHING = 4.0
"""Sigma (voxels) of smoothing the gaps across columns, so that neighbours are compressed alike."""

MASK_SMOOTHING = 0.6
"""Sigma (voxels) of smoothing a resampled mask, about the smallest that closes the holes due to resampling."""

_SAMPLED = 16
"""Number of rows of columns in which the shear is measured, in each direction."""


def sheet_axis(image: torch.Tensor) -> int:
    """Return the axis of ``(D, H, W)`` along which smoothed grey values change most: the one across the sheets."""
    coarse = F.avg_pool3d(image[None, None].float(), 2, ceil_mode=True)[0, 0]
    changes = [coarse.diff(dim=axis).square().mean().nan_to_num() for axis in range(3)]
    return int(torch.stack(changes).argmax())


def gaps(image: torch.Tensor) -> torch.Tensor:
    """Return a gap weight for each voxel: 0 in the brighter half of the range, 1 in the darkest fifth of the voxels.

    Voxels with exactly the lowest value are outside of the scan, and no gap. Gaps are found at half the resolution
    across the columns, since they are smoothed in these directions.

    Args:
        image: ``(N, A, B)``, any dtype; sheets are brighter than the gaps.

    Returns:
        ``(N, A, B)`` float32 in [0, 1].
    """
    image = image[None].float()
    coarse = F.avg_pool2d(image, 2, ceil_mode=True)[0]
    outside = coarse <= image.amin()
    if outside.all():
        return torch.zeros_like(image[0])
    half = SMOOTHING / 2
    smooth = gaussian(coarse, {0: SMOOTHING, 1: half, 2: half}, radius=4, edge=True)
    dark, bright = np.percentile(smooth[~outside][::4].numpy(), (20, 80)).tolist()
    middle = (dark + bright) / 2
    gap = smooth.neg_().add_(middle).div_(max(middle - dark, 1e-6)).clamp_(0, 1).masked_fill_(outside, 0)
    half = LATERAL_SMOOTHING / 2
    gap = gaussian(gap, {1: half, 2: half}, radius=round(4 * half), edge=True)
    return F.interpolate(gap[None], size=image.shape[2:], mode="bilinear")[0].clamp_(max=1)  # rounding


def shear(gap: torch.Tensor) -> float:
    """Return the displacement between neighbouring columns for a strength of 1, in voxels.

    It is the 99th percentile over a sample of the volume, and large if columns run along the sheets.
    """
    slide = gap.cumsum(0)
    slide -= slide[len(gap) // 2].clone()
    a, b = (max(1, size // _SAMPLED) for size in slide.shape[1:])
    pairs = slide[:, :, ::b].diff(dim=1), slide[:, ::a].diff(dim=2)
    return max(float(np.percentile(pair.abs_().numpy(), 99)) for pair in pairs)


def compress(lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the source of each voxel of the compressed columns.

    Args:
        lengths: ``(N, A, B)`` length of each voxel, in (0, 1]. A run of voxels of length 1 is moved as a whole.

    Returns:
        index: ``(N, A, B)`` int32, the voxel that covers the centre of each voxel of the result; -1 beyond the ends of
            the shortened column.
        position: ``(N, A, B)`` of the dtype of ``lengths``, the exact position in the column, for interpolation; the
            column is mirrored beyond its ends.
    """
    shape, n, columns = lengths.shape, len(lengths), lengths[0].numel()
    lengths = lengths.reshape(n, columns)
    edges = torch.cat([torch.zeros_like(lengths[:1]), lengths.cumsum(0)])
    edges += n // 2 - edges[n // 2].clone()
    # Edge j is written to the first centre behind it, in ascending order: the last one stays, and its voxel covers it.
    behind = (edges - 0.5).ceil_().clamp_(0, n).long()
    behind.mul_(columns).add_(torch.arange(columns))
    index = np.full((n + 1) * columns, -1, np.int32)
    index[behind.flatten().numpy()] = np.repeat(np.append(np.arange(n, dtype=np.int32), np.int32(-1)), columns)
    index = torch.from_numpy(index[: n * columns]).view(n, columns)

    centres = (torch.arange(n, dtype=lengths.dtype) + 0.5).view(-1, 1)
    source = index.clamp(min=0)
    position = (centres - voxels_at(edges, source)).div_(voxels_at(lengths, source)).add_(source).sub_(0.5)
    place, column = (index < 0).nonzero(as_tuple=True)
    before, after = edges[0, column] - centres[place, 0], centres[place, 0] - edges[-1, column]
    position[place, column] = torch.where(before > 0, before, n - after) - 0.5
    return index.view(shape), position.view(shape)


def interpolate(columns: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """Interpolate ``(N, A, B)`` linearly at ``position`` along the first axis; beyond the ends the last value is used.

    Results are clipped to the range of ``columns``, against rounding.
    """
    n = len(columns)
    position = position.clamp(0, n - 1).to(columns.dtype)
    below = position.int().clamp_(max=max(n - 2, 0))
    flat, plane = _flat(below), columns[0].numel()
    values = columns.reshape(-1)
    low, high = (values[start:].index_select(0, flat).view(position.shape) for start in (0, plane * (n > 1)))
    return torch.lerp(low, high, position.sub_(below)).clamp_(columns.amin(), columns.amax())


def move_mask(columns: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """Resample the mask ``(N, A, B)`` at ``position``: interpolated, smoothed slightly, and thresholded at one half.

    In an oblique sheet two voxels thick, neighbouring columns are connected by the face of a single voxel, so that
    nearest-neighbour resampling of each column would cause hundreds of pinholes in a patch.
    """
    moved = interpolate(columns.float(), position)
    return gaussian(moved, dict.fromkeys(range(3), MASK_SMOOTHING), radius=2, edge=True) > 0.5


def voxels_at(columns: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Voxels at ``index`` along the first axis: ``gather`` with int32, several times as fast."""
    return columns.reshape(-1).index_select(0, _flat(index)).view(index.shape)


def _flat(index: torch.Tensor) -> torch.Tensor:
    plane = index[0].numel()
    return index.reshape(len(index), plane).mul(plane).add_(torch.arange(plane, dtype=torch.int32)).flatten()

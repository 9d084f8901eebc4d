"""Dilation, closing and pinhole filling of 3-D masks.

A Euclidean ball is a union of shifted lines along one axis: for the small radii needed here (1 to 3) combining these is
exact and takes a tenth of the time of a distance transform of the whole volume.
"""

import math

import numpy as np


def dilate(mask: np.ndarray, radius: float) -> np.ndarray:
    """Return the voxels within a Euclidean distance of ``radius`` voxels of the (D, H, W) mask."""
    mask = np.ascontiguousarray(mask, bool)
    lines = _widened(mask, int(radius))
    result = lines[int(radius)].copy()
    for z, y, half in _lines(radius):
        if (z, y) != (0, 0):
            target, source = _shifted(z, y)
            result[target] |= lines[half][source]
    return result


def close(mask: np.ndarray, radius: float) -> np.ndarray:
    """Close the mask with a ball of ``radius`` voxels; nothing is removed. Outside of the volume is background."""
    margin = math.ceil(radius)
    dilated = dilate(np.pad(mask.astype(bool), margin), radius)
    inner = tuple(slice(margin, length + margin) for length in mask.shape)
    return ~dilate(~dilated, radius)[inner]


def plug_pinholes(mask: np.ndarray, iterations: int = 1) -> np.ndarray:
    """Fill background voxels of which at least four of the six face neighbours are foreground: holes one voxel wide.

    A hole one voxel wide through a sheet has four such faces, whatever the sheet's thickness; a voxel between two
    sheets, or in the corner of a step, has at most three.
    """
    mask = np.array(mask, bool)
    for _ in range(iterations):
        faces = np.zeros(mask.shape, np.uint8)
        for axis in range(mask.ndim):
            lead = (slice(None),) * axis
            faces[(*lead, slice(1, None))] += mask[(*lead, slice(None, -1))]
            faces[(*lead, slice(None, -1))] += mask[(*lead, slice(1, None))]
        mask |= faces >= 4
    return mask


def ball_offsets(radius: float) -> np.ndarray:
    """Return (N, 3) integer offsets of length up to ``radius``, nearest first, starting with the centre."""
    reach = np.arange(-int(radius), int(radius) + 1)
    offsets = np.stack(np.meshgrid(reach, reach, reach, indexing="ij"), axis=-1).reshape(-1, 3)
    squared = (offsets**2).sum(axis=1)
    return offsets[np.argsort(squared, kind="stable")][: np.count_nonzero(squared <= _squared(radius))]


def _lines(radius: float) -> list[tuple[int, int, int]]:
    """The ball as lines along the last axis: (shift along axis 0, along axis 1, half length)."""
    reach = range(-int(radius), int(radius) + 1)
    inside = [(z, y, _squared(radius) - z**2 - y**2) for z in reach for y in reach]
    return [(z, y, math.isqrt(rest)) for z, y, rest in inside if rest >= 0]


def _squared(radius: float) -> int:
    """The largest squared length of an offset within the radius; that of ``sqrt(3)`` is 3, not 2.9999999999999996."""
    return math.floor(radius**2 + 1e-6)


def _widened(mask: np.ndarray, most: int) -> list[np.ndarray]:
    """The mask dilated along its last axis by 0, 1, ... ``most`` voxels on either side."""
    widened = [mask]
    for step in range(1, most + 1):
        wider = widened[-1].copy()
        wider[..., step:] |= mask[..., :-step]
        wider[..., :-step] |= mask[..., step:]
        widened.append(wider)
    return widened


def _shifted(z: int, y: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """(target, source) slices of the first two axes that move an array by (z, y)."""
    pairs = [(slice(max(d, 0), min(d, 0) or None), slice(max(-d, 0), min(-d, 0) or None)) for d in (z, y)]
    return (pairs[0][0], pairs[1][0]), (pairs[0][1], pairs[1][1])

"""Repair of individual sheets of (D, H, W) masks, without joining them."""

import math

import numpy as np
from scipy import ndimage

from .components import component_boxes, component_sizes, label_components
from .morphology import ball_offsets, close

STEP = 2
"""Largest change in height between neighbouring voxels of a rim that belongs to a single sheet."""

_ROOM = 4
"""Voxels that a patch, which may bulge, can extend above the highest and below the lowest voxel of its sheet."""

_NEIGHBOURS = ball_offsets(math.sqrt(3))[1:]


def close_sheets(mask: np.ndarray, radius: float) -> np.ndarray:
    """Closing with a ball that does not join components.

    Each voxel of the closing is assigned to the nearest component, and left out where it would touch another one (by a
    face, an edge or a corner). A plain closing joins sheets with a gap narrower than the ball.
    """
    mask = mask.astype(bool)
    added = close(mask, radius) & ~mask
    labels = np.pad(label_components(mask)[0], math.ceil(radius) + 1)
    places = np.argwhere(added) + math.ceil(radius) + 1
    labels[tuple(places.T)] = owners = _nearest(labels, places, radius)
    apart = ~_touch_another(labels, places, owners)
    mask = mask.copy()
    mask[tuple((places[apart] - math.ceil(radius) - 1).T)] = True
    return mask


def patch_holes(mask: np.ndarray, max_area: int, min_voxels: int = 1000) -> np.ndarray:
    """Fill holes in sheets that are too wide for a closing, using height maps.

    Each component is projected along the axis in which its area is largest, and represented by the height of its middle
    and its thickness. A hole is an enclosed part of the plane that the component does not cover, of at most
    ``max_area`` pixels. Its heights are interpolated from the surroundings (biharmonic inpainting); its thickness is
    the median of its rim's. A hole is left open if its patch would touch another component, or if its rim is folded or
    jumps, where a height map is not meaningful.

    Genuine holes of the papyrus are filled as well: choose ``max_area`` by the score.

    Args:
        max_area: in voxel faces, projected along the axis.
    """
    labels, count = label_components(mask)
    sizes = component_sizes(labels, count)
    patched = mask.astype(bool)
    for number, box in enumerate(component_boxes(labels, count, _ROOM), 1):
        if sizes[number] < min_voxels:
            continue
        component = labels[box] == number
        axis = int(np.argmax([np.count_nonzero(component.any(axis=axis)) for axis in range(3)]))
        # Height becomes the last axis; these are views, so that writing to result changes the volume.
        sheet, others, result = (
            np.moveaxis(array, axis, 2) for array in (component, patched[box] & ~component, patched[box])
        )
        patches = [_patch(sheet, hole) for hole in _holes(sheet.any(axis=2), max_area)]
        for patch in patches:
            if patch is not None and not _touches(others, patch):
                result[tuple(patch.T)] = True
    return patched


def _nearest(labels: np.ndarray, places: np.ndarray, radius: float) -> np.ndarray:
    """Label nearest to each voxel; every voxel has one within ``radius``."""
    owners = np.zeros(len(places), labels.dtype)
    for offset in ball_offsets(radius)[1:]:
        unknown = np.flatnonzero(owners == 0)
        owners[unknown] = labels[tuple((places[unknown] + offset).T)]
    return owners


def _touch_another(labels: np.ndarray, places: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """Whether a neighbour of a voxel has another label than its owner."""
    touch = np.zeros(len(places), bool)
    for offset in _NEIGHBOURS:
        neighbour = labels[tuple((places + offset).T)]
        touch |= (neighbour != 0) & (neighbour != owners)
    return touch


def _holes(footprint: np.ndarray, max_area: int) -> list[np.ndarray]:
    """(N, 2) pixels of each uncovered part that does not reach the edge of the footprint's box."""
    numbered, count = ndimage.label(~footprint)
    edge = np.unique(np.concatenate([numbered[0], numbered[-1], numbered[:, 0], numbered[:, -1]]))
    areas = np.bincount(numbered.ravel(), minlength=count + 1)
    inner = [number for number in range(1, count + 1) if number not in edge and areas[number] <= max_area]
    return [np.argwhere(numbered == number) for number in inner]


def _patch(sheet: np.ndarray, hole: np.ndarray) -> np.ndarray | None:
    """(N, 3) voxels that fill a hole, or None if the sheet around it is folded or jumps."""
    from skimage.restoration import inpaint_biharmonic

    margin = 3  # inpainting uses two pixels of the rim
    low = np.maximum(hole.min(axis=0) - margin, 0)
    high = np.minimum(hole.max(axis=0) + margin + 1, sheet.shape[:2])
    window = sheet[low[0] : high[0], low[1] : high[1]]
    covered, thickness = window.any(axis=2), window.sum(axis=2)
    bottom = window.argmax(axis=2)
    top = window.shape[2] - 1 - window[..., ::-1].argmax(axis=2)
    unknown = np.zeros(covered.shape, bool)
    unknown[tuple((hole - low).T)] = True
    rim = covered & ndimage.binary_dilation(unknown, np.ones((3, 3)))
    if (top - bottom + 1 > thickness)[rim].any() or _jump(bottom + top, rim) > 2 * STEP:
        return None
    # Other holes in the window are unknown as well, but not filled here.
    middle = inpaint_biharmonic(np.where(covered, (bottom + top) / 2, 0.0), ~covered)
    half = np.median(thickness[rim]) / 2
    bottom = np.where(unknown, np.ceil(middle - half), bottom).astype(int)
    top = np.where(unknown, np.maximum(np.ceil(middle + half) - 1, bottom), top).astype(int)
    bottom, top = _joined(bottom, top, unknown, covered | unknown)
    rows, columns = np.nonzero(unknown)
    lowest, highest = (np.clip(edge[unknown], 0, window.shape[2] - 1) for edge in (bottom, top))
    columns_of = [
        np.stack(np.broadcast_arrays(row, column, np.arange(first, last + 1)), axis=1)
        for row, column, first, last in zip(rows, columns, lowest, highest, strict=True)
    ]
    places = np.concatenate(columns_of)
    places[:, :2] += low
    return places


def _jump(heights: np.ndarray, rim: np.ndarray) -> int:
    """Largest difference in height between neighbouring pixels of the rim."""
    largest = 0
    for along, edge in ((heights, rim), (heights.T, rim.T)):
        steps = np.diff(along, axis=0)[edge[1:] & edge[:-1]]
        largest = max(largest, int(np.abs(steps).max(initial=0)))
    return largest


def _joined(
    bottom: np.ndarray, top: np.ndarray, unknown: np.ndarray, sheet: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Extend the patch's columns so that each overlaps its neighbours in height, and is connected by faces."""
    lower, upper = bottom.copy(), top.copy()
    for axis in (0, 1):
        for step in (1, -1):
            there = np.roll(sheet, step, axis) & unknown
            lower = np.where(there, np.minimum(lower, np.roll(top, step, axis)), lower)
            upper = np.where(there, np.maximum(upper, np.roll(bottom, step, axis)), upper)
    return lower, upper


def _touches(others: np.ndarray, places: np.ndarray) -> bool:
    """Whether a voxel, or one of its 26 neighbours, is in ``others``."""
    limit = np.array(others.shape) - 1
    return any(others[tuple(np.clip(places + offset, 0, limit).T)].any() for offset in ball_offsets(math.sqrt(3)))

"""Separation of sheets that a threshold has merged."""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import ndimage

from .components import component_boxes, component_sizes, label_components


def split_merged(
    mask: np.ndarray,
    levels: np.ndarray,
    at: Sequence[int],
    max_overlap: float = 0.1,
    min_voxels: int = 200,
) -> np.ndarray:
    """Separate sheets that are joined in the mask, but not at higher thresholds.

    A sheet seen along the axis in which its area is largest has one height in each pixel. A 26-connected component with
    more than one in a share of its pixels is assumed to be several sheets. It is thresholded again, higher and higher,
    until its parts are single sheets (or the thresholds are used up). The parts are grown to the whole component by a
    watershed; parts that touch and lie side by side are one sheet again; between the others, one layer of voxels is
    removed. Sheets thus keep their thickness, and a component that no threshold separates stays as it is.

    Example: ``split_merged(levels >= 1, levels, at=[2, 3])``

    Args:
        levels: (D, H, W) integers, larger where the probability is higher.
        at: the levels at which components are thresholded again, ascending.
        max_overlap: share of pixels with more than one height up to which something is a single sheet.
        min_voxels: smaller parts are not sheets of their own.
    """
    labels, count = label_components(mask)
    sizes = component_sizes(labels, count)
    result = mask.astype(bool)
    for number, box in _boxes(labels, sizes, 2 * min_voxels):
        component = labels[box] == number
        parts = list(_parts(component, levels[box], at, max_overlap, min_voxels))
        if len(parts) > 1:
            result[box] &= ~_fronts(_grown(parts, component, levels[box], max_overlap))
    return result


def overlap(sheet: np.ndarray) -> float:
    """Share of a (D, H, W) mask's pixels, in the projection with the largest area, that have more than one height."""
    axis = int(np.argmax([np.count_nonzero(sheet.any(axis=axis)) for axis in range(sheet.ndim)]))
    columns = np.moveaxis(sheet, axis, 0)
    runs = columns[0].astype(np.int32) + np.count_nonzero(columns[1:] & ~columns[:-1], axis=0)
    return float(np.count_nonzero(runs > 1) / max(np.count_nonzero(runs), 1))


def _boxes(labels: np.ndarray, sizes: np.ndarray, min_voxels: int) -> Iterator[tuple[int, tuple[slice, ...]]]:
    for number, box in enumerate(component_boxes(labels, len(sizes) - 1), 1):
        if sizes[number] >= min_voxels:
            yield number, box


def _parts(
    part: np.ndarray, levels: np.ndarray, at: Sequence[int], max_overlap: float, min_voxels: int
) -> Iterator[np.ndarray]:
    """(N, 3) voxels of each part that is a single sheet, at the lowest level at which it is."""
    if at and overlap(part) > max_overlap:
        labels, count = label_components(part & (levels >= at[0]))
        large = list(_boxes(labels, component_sizes(labels, count), min_voxels))
        for number, box in large:
            start = [side.start for side in box]
            for voxels in _parts(labels[box] == number, levels[box], at[1:], max_overlap, min_voxels):
                yield voxels + start
        if large:
            return
    yield np.argwhere(part)


def _grown(parts: Sequence[np.ndarray], component: np.ndarray, levels: np.ndarray, max_overlap: float) -> np.ndarray:
    """Number of the sheet of each voxel of a component; 0 elsewhere."""
    from skimage.segmentation import watershed

    seeds = np.zeros(component.shape, np.int32)
    for number, voxels in enumerate(parts, 1):
        seeds[tuple(voxels.T)] = number
    owners = watershed(-levels.astype(np.int32), seeds, connectivity=np.ones((3, 3, 3)), mask=component)
    return _rejoined(owners, len(parts), max_overlap)[owners]


def _rejoined(owners: np.ndarray, count: int, max_overlap: float) -> np.ndarray:
    """(count + 1,) new number of each part: one for those that touch, largest contact first, and do not overlap."""
    shadows = [[np.zeros(0, bool)] * 3] + [
        [(owners == number).any(axis=axis) for axis in range(3)] for number in range(1, count + 1)
    ]
    numbers = np.arange(count + 1)
    for one, other in _contacts(owners):
        one, other = numbers[one], numbers[other]
        if one == other:
            continue
        union = [a | b for a, b in zip(shadows[one], shadows[other], strict=True)]
        axis = int(np.argmax([np.count_nonzero(shadow) for shadow in union]))
        areas = [np.count_nonzero(shadows[number][axis]) for number in (one, other)]
        common = sum(areas) - np.count_nonzero(union[axis])
        if common <= max_overlap * min(areas):
            numbers[numbers == other] = one
            shadows[one] = union
    return numbers


def _contacts(owners: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of parts that share faces, those with the most faces first."""
    pairs = []
    for axis in range(3):
        along = np.moveaxis(owners, axis, 0)
        pair = np.stack([along[1:], along[:-1]], axis=-1)
        pairs.append(np.sort(pair[(pair[..., 0] != pair[..., 1]) & (pair > 0).all(axis=-1)], axis=-1))
    found, faces = np.unique(np.concatenate(pairs), axis=0, return_counts=True)
    return [(int(one), int(other)) for one, other in found[np.argsort(-faces, kind="stable")]]


def _fronts(owners: np.ndarray) -> np.ndarray:
    """Voxels of a part with a neighbour, of 26, in a part of a higher number."""
    return (owners > 0) & (ndimage.maximum_filter(owners, 3) > owners)

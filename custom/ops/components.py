"""Connected components of 3-D masks, using connected-components-3d."""

import numpy as np
from scipy import ndimage

SIX, TWENTY_SIX = 6, 26
"""Connectivity by faces, and by faces, edges and corners. A set and its complement use opposite ones."""


def label_components(mask: np.ndarray, connectivity: int = TWENTY_SIX) -> tuple[np.ndarray, int]:
    """Label the components of a (D, H, W) mask; returns labels from 1 (0 is background) and their number."""
    import cc3d

    return cc3d.connected_components(mask.astype(bool), connectivity=connectivity, return_N=True)


def component_sizes(labels: np.ndarray, count: int) -> np.ndarray:
    """Return (count + 1,) int64 voxel counts of the components; entry 0 is the background."""
    return np.bincount(labels.ravel(), minlength=count + 1)


def component_boxes(labels: np.ndarray, count: int, margin: int = 0) -> list[tuple[slice, ...]]:
    """Return the box around each component, with a margin where the volume has room for it."""
    tight = ndimage.find_objects(labels, count)
    return [tuple(slice(max(side.start - margin, 0), side.stop + margin) for side in box) for box in tight]


def remove_small(mask: np.ndarray, min_voxels: int, connectivity: int = TWENTY_SIX) -> np.ndarray:
    """Remove components with fewer than ``min_voxels`` voxels; 0 and 1 remove none, at no cost."""
    if min_voxels <= 1:
        return mask.astype(bool)
    import cc3d

    return cc3d.dust(mask.astype(bool), threshold=min_voxels, connectivity=connectivity)


def hysteresis(values: np.ndarray, low: float, high: float, connectivity: int = TWENTY_SIX) -> np.ndarray:
    """Return components of ``values >= low`` that reach ``high`` somewhere; ``low == high`` is a plain threshold."""
    mask = values >= low
    if high <= low:
        return mask
    labels, count = label_components(mask, connectivity)
    keep = np.zeros(count + 1, bool)
    keep[labels[values >= high]] = True
    keep[0] = False
    return keep[labels]


def fill_cavities(mask: np.ndarray, max_voxels: int | None = None, connectivity: int = TWENTY_SIX) -> np.ndarray:
    """Fill background components that do not touch the faces of the volume and have up to ``max_voxels`` voxels.

    Args:
        max_voxels: larger cavities are kept; None fills all.
        connectivity: of the background. 26 is the complement of a 6-connected foreground, as in the Vesuvius TopoScore;
            6 also fills cavities that leak only through edges and corners.
    """
    labels, count = label_components(~mask.astype(bool), connectivity)
    fill = np.ones(count + 1, bool) if max_voxels is None else component_sizes(labels, count) <= max_voxels
    fill[border_labels(labels)] = False
    fill[0] = True  # the mask itself
    return fill[labels]


def border_labels(labels: np.ndarray) -> np.ndarray:
    """Return the component labels that occur on the faces of the volume, including 0."""
    faces = [labels.take(side, axis).ravel() for axis in range(labels.ndim) for side in (0, -1)]
    return np.unique(np.concatenate(faces))


def betti_numbers(mask: np.ndarray) -> np.ndarray:
    """Return (3,) int64: components minus one, tunnels and cavities of a 6-connected (D, H, W) mask.

    The first component is not counted (reduced homology), as in Betti matching. Components and cavities are counted;
    tunnels follow from the Euler number.
    """
    from skimage.measure import euler_number

    mask = np.ascontiguousarray(mask, bool)
    components = label_components(mask, SIX)[1]
    outside, count = label_components(~mask, TWENTY_SIX)
    cavities = count - np.count_nonzero(border_labels(outside))
    tunnels = components + cavities - euler_number(mask, connectivity=1)
    return np.array([max(components - 1, 0), tunnels, cavities], np.int64)

"""Filling of holes through the sheets of (D, H, W) masks, guarded by the Euler number."""

import itertools
import math

import numpy as np
from scipy import ndimage
from skimage.measure import euler_number

from .components import SIX, betti_numbers, component_boxes, component_sizes, fill_cavities, label_components
from .morphology import dilate

LINES = [step for step in itertools.product((-1, 0, 1), repeat=3) if step > (0, 0, 0)]
"""The 13 lines through a voxel and its neighbours."""
MIN_LINES = 3
"""Lines of a sheet's plane that a hole interrupts; at least three of the 13 lie in, or close to, any plane."""


def fill_tunnels(mask: np.ndarray, radius: int) -> np.ndarray:
    """Fill tunnels, holes through a sheet, and nothing else.

    A background voxel may be part of a filling if, along at least three lines, it lies in a gap of its component that
    is shorter than the tunnel's diameter. A 6-connected set of such voxels is filled only if this raises the Euler
    number of the component and leaves no new cavity, so that the number of tunnels falls; notches, folds and the space
    between sheets stay empty. Voxels that touch another component are never filled. Unlike a closing, it mends sheets
    one voxel thick; a wide hole in a thin sheet oblique to all 13 lines stays.

    Example: ``fill_tunnels(mask, radius=2)``
    """
    labels, count = label_components(mask)
    result = np.pad(mask.astype(bool), 1)
    labels = np.pad(labels, 1)
    for number, box in enumerate(component_boxes(labels, count, 1), 1):
        component = labels[box] == number
        if betti_numbers(component)[1]:
            for reach in range(1, radius + 1):  # small ones first, before voxels around them are filled
                component = _filled(component, result[box] & (labels[box] != number), reach)
            result[box] |= component
    return result[1:-1, 1:-1, 1:-1]


def _filled(component: np.ndarray, others: np.ndarray, radius: int) -> np.ndarray:
    closed = fill_cavities(component)  # a filling that divides a cavity would raise the Euler number too
    candidates = _interrupts(component, radius) & ~closed & ~dilate(others, math.sqrt(3))
    patches, count = label_components(candidates, SIX)
    sizes = component_sizes(patches, count)
    filled = component.copy()
    for number, window in enumerate(component_boxes(patches, count, 1), 1):
        if sizes[number] > (2 * radius + 1) ** 3:
            continue
        patch = patches[window] == number
        before = filled[window]
        touches = (ndimage.binary_dilation(patch) & before).any()
        if touches and euler_number(before | patch, 1) > euler_number(before, 1):
            filled[window] |= patch
    pockets = fill_cavities(filled) & ~filled & ~closed
    if pockets.any():  # these were shut, and are opened again
        shutters = np.unique(patches[dilate(pockets, math.sqrt(3)) & filled & ~component])
        filled &= component | ~np.isin(patches, shutters)
    return filled


def _interrupts(mask: np.ndarray, radius: int) -> np.ndarray:
    """Whether at least ``MIN_LINES`` lines through a voxel meet the mask on both sides, less than a diameter apart."""
    most = 2 * radius - 1
    padded = np.pad(mask, most)

    def within(line: tuple[int, int, int]) -> list[np.ndarray]:
        """Whether the mask is met within 1, 2, ... ``most`` voxels."""
        places = [[most + by * reach for by in line] for reach in range(1, most + 1)]
        shifted = [padded[tuple(map(slice, place, np.add(place, mask.shape)))] for place in places]
        return list(itertools.accumulate(shifted, np.logical_or))

    lines = np.zeros(mask.shape, np.uint8)
    for z, y, x in LINES:
        ways = zip(within((z, y, x)), reversed(within((-z, -y, -x))), strict=True)
        lines += np.logical_or.reduce([one & other for one, other in ways])
    return lines >= MIN_LINES

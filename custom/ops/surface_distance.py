"""Surface Dice: agreement of two surfaces within a tolerance, weighted by area.

Nikolov et al., "Clinically applicable segmentation of head and neck anatomy for radiotherapy", arXiv 1809.04430: the
surface is between voxels, and each 2x2x2 neighbourhood that it crosses contributes the area of its marching-cubes
patch. MONAI uses the same definition (``compute_surface_dice(use_subvoxels=True)``), and its table of areas is used
here. MONAI computes distances with a search tree over all surface points; dilating the other surface by a ball of the
tolerance's radius gives the same result many times faster (at 320^3).
"""

import numpy as np

from .boxes import bounding_box
from .morphology import dilate

_FULL = 255


def surface_dice(prediction: np.ndarray, label: np.ndarray, tolerance: float = 2.0) -> float:
    """Return the fraction of both surfaces' area that is within ``tolerance`` voxels of the other surface.

    Two empty masks give 1, one empty mask 0. Voxels are cubes; outside of the volume is background, so a mask that
    reaches a face of the volume has a surface there.

    Args:
        prediction, label: (D, H, W) masks.
        tolerance: in voxels, at least 0.
    """
    box = bounding_box((prediction != 0) | (label != 0))
    if box is None:
        return 1.0
    codes = [_neighbourhood_codes(mask[box] != 0) for mask in (prediction, label)]
    if not all(code.any() for code in codes):
        return 0.0
    borders = [(code != 0) & (code != _FULL) for code in codes]
    areas = _areas()
    total = within = 0.0
    for code, border, other in zip(codes, borders, reversed(borders), strict=True):
        total += _area(code[border], areas)
        within += _area(code[border & dilate(other, tolerance)], areas)
    return within / total


def _neighbourhood_codes(mask: np.ndarray) -> np.ndarray:
    """(D + 1, H + 1, W + 1) uint8: the eight voxels around each corner as bits, the first voxel as the highest bit."""
    code = np.pad(mask, 1).view(np.uint8)
    code = code[..., :-1] << 1 | code[..., 1:]
    code = code[:, :-1] << 2 | code[:, 1:]
    return code[:-1] << 4 | code[1:]


def _areas() -> np.ndarray:
    """(256,) area of the surface patch within a neighbourhood, in squared voxels."""
    from monai.metrics.utils import get_code_to_measure_table

    return get_code_to_measure_table((1, 1, 1))[0].double().numpy()


def _area(codes: np.ndarray, areas: np.ndarray) -> float:
    return float(np.bincount(codes, minlength=len(areas)) @ areas)

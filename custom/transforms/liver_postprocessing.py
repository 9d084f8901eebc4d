"""Post-processing of liver and tumour label maps of whole volumes."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type, convert_to_numpy

from ..ops.boxes import bounding_box
from ..ops.components import SIX, component_sizes, fill_cavities, label_components, remove_small
from ..ops.liver_labels import LIVER, TUMOR


class CleanLiverd(MapTransform):
    """Applies :func:`clean_liver`: keeps one liver and its tumours, and fills holes, in 3-D.

    The result is on the CPU.

    Example: ``CleanLiverd("pred", tumor_margin_mm=5.0, min_size_mm3=30.0)``

    Args:
        keys: label maps ``(1, D, H, W)``, or ``(1, H, W)`` of a single slice: 0 background, 1 liver, 2 tumour. The
            voxel size is that of a MetaTensor's affine, otherwise 1 mm.
        largest_liver, fill_holes, tumor_margin_mm, min_size_mm3: see :func:`clean_liver`.
    """

    reads_image = False

    def __init__(
        self,
        keys: KeysCollection,
        *,
        largest_liver: bool = True,
        fill_holes: bool = True,
        tumor_margin_mm: float | None = 5.0,
        min_size_mm3: float = 30.0,
    ) -> None:
        super().__init__(keys)
        self.options = {
            "largest_liver": largest_liver,
            "fill_holes": fill_holes,
            "tumor_margin_mm": tumor_margin_mm,
            "min_size_mm3": min_size_mm3,
        }

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        output = dict(data)
        for key in self.key_iterator(data):
            label = data[key]
            array = convert_to_numpy(label)[0]
            cleaned = clean_liver(array, spacing=_spacing(label, array.ndim), **self.options)
            device = torch.device("cpu")  # where the scores are computed and files written
            output[key] = convert_to_dst_type(cleaned[None], label, dtype=torch.uint8, device=device)[0]
        return output


def clean_liver(
    label: np.ndarray,
    *,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    largest_liver: bool = True,
    fill_holes: bool = True,
    tumor_margin_mm: float | None = 5.0,
    min_size_mm3: float = 30.0,
) -> np.ndarray:
    """Remove implausible structures from a label map: second livers, isolated tumours, specks and holes.

    The steps in order, with 26-connected components:

    1. A liver is a component of liver and tumour voxels together with at least one liver voxel (any component, if there
       are no liver voxels at all). Other liver voxels, and livers below the minimum size, become background.
    2. Tumour voxels further from the liver than the margin become background. 3. Tumours below the minimum size become
    liver if they are within it, otherwise background. 4. Holes (6-connected background enclosed within the volume) are
    filled: with tumour, including enclosed liver tissue,
       if they lie in a tumour, otherwise with liver. Holes open to the volume's border are kept.

    Args:
        label: ``(D, H, W)`` or ``(H, W)``, any axis order: 0 background, 1 liver, 2 tumour.
        spacing: mm between voxels along each axis of the array.
        largest_liver: whether only the largest liver is kept.
        fill_holes: whether to apply step 4.
        tumor_margin_mm: largest distance of a tumour voxel from the liver; 0 keeps only tumours within it, None keeps
            all.
        min_size_mm3: minimum volume of a liver or tumour; 0 keeps all. 30 is about a ball of 4 mm diameter.

    Returns:
        the cleaned label map, uint8, of the same shape.
    """
    cleaned = np.zeros(label.shape, np.uint8)
    box = bounding_box(label > 0)
    if box is None:
        return cleaned
    mm = np.asarray(spacing, float)
    least = math.ceil(min_size_mm3 / mm.prod())
    part = label[box].astype(np.uint8)
    if label.ndim == 2:
        part, mm = part[None], np.concatenate([[1.0], mm])

    liver = _livers(part, largest_liver, least)
    tumors = part == TUMOR
    if tumor_margin_mm is not None:
        tumors &= _near(liver, tumors, tumor_margin_mm, mm)
    tumors = remove_small(tumors, least)
    if fill_holes:
        flat = [axis for axis, length in enumerate((1, *label.shape)[-3:]) if length == 1]
        tumors = _filled(tumors, flat)
        liver |= _filled(liver | tumors, flat)
    cleaned[box] = np.where(tumors, TUMOR, liver * LIVER).astype(np.uint8).reshape(cleaned[box].shape)
    return cleaned


def _livers(label: np.ndarray, largest: bool, least: int) -> np.ndarray:
    components, count = label_components(label > 0)
    sizes = component_sizes(components, count)
    is_liver = np.zeros(count + 1, bool)
    is_liver[components[label == LIVER]] = True
    if not is_liver.any():
        is_liver[1:] = True
    if largest:
        is_liver &= np.arange(count + 1) == np.argmax(sizes * is_liver)
    is_liver &= sizes >= least
    return is_liver[components]


def _near(liver: np.ndarray, tumors: np.ndarray, margin: float, spacing: np.ndarray) -> np.ndarray:
    box = bounding_box(liver)
    if box is None or not (tumors & ~liver).any():
        return liver
    import edt

    # Distances are expensive; compute them only within the liver's box and the margin.
    steps = np.ceil(margin / spacing).astype(int)
    box = tuple(slice(max(0, part.start - step), part.stop + step) for part, step in zip(box, steps, strict=True))
    near = liver.copy()
    near[box] = edt.edt(np.ascontiguousarray(~liver[box]), anisotropy=tuple(spacing)) <= margin
    return near


def _filled(mask: np.ndarray, flat: Sequence[int]) -> np.ndarray:
    """Fill the holes of a mask; ``flat`` axes have a single slice and cannot be open."""
    if not mask.any():
        return mask
    # Background around the box connects open holes to the outside; flat axes are closed by foreground instead.
    rim = np.pad(mask, [(0, 0) if axis in flat else (1, 1) for axis in range(3)])
    lid = np.pad(rim, [(1, 1) if axis in flat else (0, 0) for axis in range(3)], constant_values=True)
    return fill_cavities(lid, connectivity=SIX)[1:-1, 1:-1, 1:-1]


def _spacing(label: Any, dimensions: int) -> np.ndarray:
    if isinstance(label, MetaTensor):
        return np.asarray(label.pixdim, float)[:dimensions]
    return np.ones(dimensions)

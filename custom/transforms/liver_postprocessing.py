"""Cleaning the label map of a whole volume after its slices have been put together again."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type, convert_to_numpy

LIVER, TUMOR = 1, 2


class CleanLiverd(MapTransform):
    """Keep one liver, its tumours and no holes, in 3-D, by :func:`clean_liver`.

    Args:
        keys: label maps ``(1, D, H, W)``, or ``(1, H, W)`` of a single slice: 0 background, 1 liver, 2 tumour. A
            MetaTensor's affine gives the voxel size; without one it is taken as 1 mm.
        largest_liver, fill_holes, tumor_margin_mm, min_size_mm3: see :func:`clean_liver`.
    """

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
            output[key] = convert_to_dst_type(cleaned[None], label, dtype=torch.uint8)[0]
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
    """Remove from a label map what cannot be: second livers, stray tumours, specks and holes.

    In this order, components being 26-connected:

    1. A liver is a component of liver and tumour voxels together with at least one liver voxel (if there is none at
       all, any component). Other liver voxels, and livers below the least size, become background.
    2. Tumour voxels further from the liver than the margin become background.
    3. Tumours below the least size become liver where they are part of it, else background.
    4. Holes (6-connected background without a way out of the volume) are filled: with tumour if they lie in a tumour,
       liver tissue in there included, else with liver. A hole open to the volume's border is kept, as anatomy goes on
       beyond it.

    Args:
        label: ``(D, H, W)`` or ``(H, W)``, any axis order: 0 background, 1 liver, 2 tumour.
        spacing: mm between voxels along each axis of the array.
        largest_liver: whether only the largest liver is kept.
        fill_holes: whether step 4 is done.
        tumor_margin_mm: how far a tumour may lie from the liver; 0 keeps only what is
            part of it, ``None`` keeps all.
        min_size_mm3: least volume of a liver or tumour; 0 keeps all. 30 is about a ball 4 mm across.

    Returns:
        the cleaned label map, uint8, of the same shape.
    """
    cleaned = np.zeros(label.shape, np.uint8)
    box = _bounding_box(label > 0)
    if box is None:
        return cleaned
    spacing = np.asarray(spacing, float)
    least = min_size_mm3 / spacing.prod()
    part = label[box].astype(np.uint8)
    if label.ndim == 2:
        part, spacing = part[None], np.concatenate([[1.0], spacing])
    # A rim of background round the liver joins all that is open; a single slice is open in its plane only.
    rim = [(int(length > 1),) * 2 for length in (1, *label.shape)[-3:]]
    part = np.pad(part, rim)

    liver = _livers(part, largest_liver, least)
    tumors = part == TUMOR
    if tumor_margin_mm is not None:
        tumors &= _near(liver, tumors, tumor_margin_mm, spacing)
    tumors = _at_least(tumors, least)
    if fill_holes:
        tumors |= _holes(tumors, rim)
        liver |= _holes(liver | tumors, rim)
    result = np.where(tumors, TUMOR, liver * LIVER).astype(np.uint8)
    result = result[tuple(slice(before, -after or None) for before, after in rim)]
    cleaned[box] = result.reshape(cleaned[box].shape)
    return cleaned


def _livers(label: np.ndarray, largest: bool, least: float) -> np.ndarray:
    """The components that count as liver, with the tumours in them."""
    import cc3d

    components = cc3d.connected_components(label > 0, connectivity=26)
    sizes = np.bincount(components.ravel())
    is_liver = np.zeros(len(sizes), bool)
    is_liver[components[label == LIVER]] = True
    if not is_liver.any():
        is_liver[1:] = True
    if largest:
        is_liver &= np.arange(len(sizes)) == np.argmax(sizes * is_liver)
    is_liver &= sizes >= least
    return is_liver[components]


def _near(liver: np.ndarray, tumors: np.ndarray, margin: float, spacing: np.ndarray) -> np.ndarray:
    """Where the liver is at most the margin away."""
    box = _bounding_box(liver)
    if box is None or not (tumors & ~liver).any():
        return liver
    import edt

    # Distances are costly, and beyond the liver's box there is nothing to measure.
    steps = np.ceil(margin / spacing).astype(int)
    box = tuple(slice(max(0, part.start - step), part.stop + step) for part, step in zip(box, steps, strict=True))
    near = liver.copy()
    near[box] = edt.edt(np.ascontiguousarray(~liver[box]), anisotropy=tuple(spacing)) <= margin
    return near


def _at_least(mask: np.ndarray, least: float) -> np.ndarray:
    """The mask without its smaller components."""
    import cc3d

    components = cc3d.connected_components(mask, connectivity=26)
    sizes = np.bincount(components.ravel())
    return mask & (sizes >= least)[components]


def _holes(mask: np.ndarray, rim: Sequence[tuple[int, int]]) -> np.ndarray:
    """Background that is shut in by the mask, which leaves the rim free."""
    import cc3d

    if mask.all() or not mask.any():
        return np.zeros_like(mask)
    components = cc3d.connected_components(~mask, connectivity=6)
    shut_in = np.ones(components.max() + 1, bool)
    shut_in[0] = False
    for axis, (width, _) in enumerate(rim):
        if width:
            shut_in[components.take((0, -1), axis)] = False
    return shut_in[components]


def _bounding_box(mask: np.ndarray) -> tuple[slice, ...] | None:
    box = []
    for axis in range(mask.ndim):
        used = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        if not used.size:
            return None
        box.append(slice(int(used[0]), int(used[-1]) + 1))
    return tuple(box)


def _spacing(label: Any, dimensions: int) -> np.ndarray:
    if isinstance(label, MetaTensor):
        return np.asarray(label.pixdim, float)[:dimensions]
    return np.ones(dimensions)

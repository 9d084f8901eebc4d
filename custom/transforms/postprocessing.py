"""From the network's probability of surface to a mask of clean sheets."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.config.type_definitions import NdarrayOrTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type

from ..ops.components import SIX, fill_cavities, hysteresis, remove_small
from ..ops.morphology import plug_pinholes
from ..ops.sheets import close_sheets, patch_holes

DARK_VOXELS = 1000
"""Smaller 6-connected regions without CT are dark voxels within it."""


class PostprocessSurfaced(MapTransform):
    """Threshold the surface's probability and repair the sheets; every step but the threshold is left out by a 0.

    The score counts every pinhole, speck and bridge, so most of it is won or lost here. Works on the CPU, in voxels.
    The steps are taken in the order of the arguments, after the mask has been cleared outside the CT.

    Args:
        keys: probabilities (C, D, H, W), tensors or arrays, floating-point in [0, 1] or uint8 for 0 to 1 in 255 steps.
            They become (1, D, H, W) uint8 masks of the same kind.
        threshold_low: least probability of what belongs to the mask.
        threshold_high: what a 26-connected part of it has to reach somewhere (hysteresis); ``threshold_low`` or less
            for a plain threshold.
        min_component_voxels: smaller 26-connected components are removed.
        closing_radius: of the ball that closes notches and small holes, where that joins no two components. From either
            side the ball dips one voxel into a hole: what is filled is thinner by two, so that holes of a sheet of two
            voxels stay open.
        pinhole_iterations: how often background voxels with foreground at four or more of their six faces, holes one
            voxel wide, are filled. Comes after the closing, which leaves dents where its ball dips into a hole.
        max_hole_area: pixels of the largest hole in a sheet that is patched by a height map, seen from the axis that
            shows most of the sheet. Holes of folded sheets, and those whose patch would touch another sheet, stay.
        max_cavity_voxels: of a cavity that is filled, background joined by faces; ``None`` for any size.
        image_key: clears the mask where this CT (1, D, H, W) holds nothing: published scrolls are 0 outside of a mask,
            along which networks like to see a surface. ``None`` leaves it.
        empty: the CT's value where there is none, after the transforms before this one; lower ones count too.
        channel: the one with the surface's probability.

    Raises:
        ValueError: an input has not four dimensions, or the CT another shape than the mask.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        threshold_low: float = 0.5,
        threshold_high: float = 0.0,
        min_component_voxels: int = 0,
        closing_radius: float = 0.0,
        pinhole_iterations: int = 0,
        max_hole_area: int = 0,
        max_cavity_voxels: int | None = 0,
        image_key: str | None = None,
        empty: float = 0.0,
        channel: int = -1,
    ) -> None:
        super().__init__(keys)
        self.threshold_low, self.threshold_high = threshold_low, threshold_high
        self.min_component_voxels = min_component_voxels
        self.closing_radius = closing_radius
        self.pinhole_iterations = pinhole_iterations
        self.max_hole_area = max_hole_area
        self.max_cavity_voxels = max_cavity_voxels
        self.image_key, self.empty = image_key, empty
        self.channel = channel

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            values = _array(result[key])[self.channel]
            scale = 255 if values.dtype == np.uint8 else 1
            mask = hysteresis(values, self.threshold_low * scale, self.threshold_high * scale)
            if self.image_key:
                mask &= ~self._outside(_array(data[self.image_key])[0], mask.shape)
            mask = self._repaired(mask)[None].astype(np.uint8)
            result[key] = convert_to_dst_type(mask, result[key], dtype=np.uint8)[0]
        return result

    def _outside(self, image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        if image.shape != shape:
            raise ValueError(f"mask {shape} and image {image.shape} must have one shape")
        return remove_small(image <= self.empty, DARK_VOXELS, SIX)

    def _repaired(self, mask: np.ndarray) -> np.ndarray:
        """The (D, H, W) bool mask after all steps that are not left out."""
        if self.min_component_voxels > 0:
            mask = remove_small(mask, self.min_component_voxels)
        if self.closing_radius >= 1:
            mask = close_sheets(mask, self.closing_radius)
        if self.pinhole_iterations > 0:
            mask = plug_pinholes(mask, self.pinhole_iterations)
        if self.max_hole_area > 0:
            mask = patch_holes(mask, self.max_hole_area)
        if self.max_cavity_voxels != 0:
            mask = fill_cavities(mask, self.max_cavity_voxels, SIX)
        return mask


def _array(image: NdarrayOrTensor) -> np.ndarray:
    array = image.detach().cpu() if isinstance(image, torch.Tensor) else image
    if array.ndim != 4:
        raise ValueError(f"expected (C, D, H, W), got {tuple(array.shape)}")
    return np.asarray(array)

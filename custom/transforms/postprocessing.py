"""Post-processing of the surface probability to a mask of clean sheets."""

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
"""Smaller 6-connected empty regions are dark voxels within the scan."""


class PostprocessSurfaced(MapTransform):
    """Thresholds the surface probability and repairs the sheets; 0 disables a step.

    The competition's score penalises every pinhole, speck and bridge. Works on the CPU; units are voxels. Steps are
    applied in the order of the arguments, after the mask has been cleared outside of the CT.

    Example: ``PostprocessSurfaced("pred", threshold_low=0.3, threshold_high=0.6, min_component_voxels=500)``

    Args:
        keys: probabilities (C, D, H, W), tensors or arrays, floating-point in [0, 1] or uint8 in steps of 1/255. They
            become (1, D, H, W) uint8 masks of the same type.
        threshold_low: minimum probability of a mask voxel.
        threshold_high: a 26-connected component of these voxels is kept only if it reaches this probability somewhere
            (hysteresis); ``threshold_low`` or less for a plain threshold.
        min_component_voxels: smaller 26-connected components are removed.
        closing_radius: radius of the ball of a closing that fills notches and small holes, without joining components.
            The filling is two voxels thinner than the sheet, so that holes in sheets two voxels thick stay open.
        pinhole_iterations: how often background voxels with at least four of six face neighbours in the mask are
            filled: holes one voxel wide, and dents left by the closing.
        max_hole_area: area of the largest hole in a sheet that is filled by interpolating a height map, in pixels of
            the projection that shows most of the sheet. Holes of folded sheets are kept, and those whose filling would
            touch another sheet.
        max_cavity_voxels: largest enclosed cavity (6-connected background) that is filled; None for any size.
        image_key: CT (1, D, H, W) outside of which the mask is cleared: published scrolls are 0 outside of a mask,
            along whose border networks tend to predict a surface. None skips this.
        empty: largest value of the CT outside of the scan, after the preceding transforms.
        channel: channel of the surface probability.

    Raises:
        ValueError: an input does not have four dimensions, or mask and CT differ in shape.
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
        """Apply all enabled steps to the (D, H, W) bool mask."""
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

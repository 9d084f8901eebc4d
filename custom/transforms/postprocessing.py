"""From the network's probability of surface to a mask of clean sheets.

The score counts every pinhole, speck and bridge, so most of it is won or lost here. Each step is a transform of its
own, to be listed, left out (``"_disabled_": true``) or turned down to nothing (0) in a config; specks are removed by
MONAI's ``RemoveSmallObjectsd``. :class:`PostprocessSurfaced` is all of them in the order that works. They take and give
(1, D, H, W), tensors or arrays, and work on the CPU, in voxels.
"""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.config.type_definitions import NdarrayOrTensor
from monai.transforms import Compose, MapTransform, RemoveSmallObjectsd
from monai.utils import convert_to_dst_type

from ..ops.components import SIX, fill_cavities, hysteresis, remove_small
from ..ops.morphology import close, plug_pinholes
from ..ops.sheets import close_sheets, patch_holes


class HysteresisThresholdd(MapTransform):
    """Mask of the 26-connected parts with a probability of at least ``low`` that somewhere reach ``high``.

    Args:
        keys: probabilities (C, D, H, W), floating-point in [0, 1] or uint8 for 0 to 1 in 255 steps.
        low: what belongs to the mask.
        high: what a part needs to stay; ``low`` or less for a plain threshold.
        channel: the one with the surface's probability.
    """

    def __init__(self, keys: KeysCollection, *, low: float = 0.5, high: float = 0.0, channel: int = -1) -> None:
        super().__init__(keys)
        self.low = low
        self.high = high
        self.channel = channel

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """(C, D, H, W) probabilities become a (1, D, H, W) uint8 mask."""
        result = dict(data)
        for key in self.key_iterator(result):
            values = _array(result[key])[self.channel]
            scale = 255 if values.dtype == np.uint8 else 1
            result[key] = _like(hysteresis(values, self.low * scale, self.high * scale), result[key])
        return result


class PlugPinholesd(MapTransform):
    """Fill background voxels with foreground at four or more of their six faces: holes one voxel wide.

    Args:
        keys: masks (1, D, H, W).
        iterations: each turn sees what the last one filled; 0 for none.
    """

    def __init__(self, keys: KeysCollection, *, iterations: int = 1) -> None:
        super().__init__(keys)
        self.iterations = iterations

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Masks become uint8 masks."""
        return _on_masks(self, data, self.iterations > 0, lambda m: plug_pinholes(m, self.iterations))


class FillCavitiesd(MapTransform):
    """Fill background that nothing joins to the outside.

    MONAI's ``FillHolesd`` fills cavities of any size, and so the gap between two sheets that close around it.

    Args:
        keys: masks (1, D, H, W).
        max_voxels: larger cavities stay; ``None`` fills all, 0 none.
        connectivity: how background joins. 26 fills what the score's dimension 2 counts, 6 also what leaks through
            edges and corners alone.
    """

    def __init__(self, keys: KeysCollection, *, max_voxels: int | None = None, connectivity: int = SIX) -> None:
        super().__init__(keys)
        self.max_voxels = max_voxels
        self.connectivity = connectivity

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Masks become uint8 masks."""
        work = self.max_voxels != 0
        return _on_masks(self, data, work, lambda m: fill_cavities(m, self.max_voxels, self.connectivity))


class CloseWithBalld(MapTransform):
    """Closing with a ball: fills notches and the holes of a sheet that are not much wider than the ball.

    From either side the ball dips one voxel into the hole: what is filled is thinner by two, so that holes of a sheet
    of two voxels stay open, and are for :class:`PatchLargeHolesd`.

    Args:
        keys: masks (1, D, H, W).
        radius: in voxels; 0 for none.
        keep_apart: leave out what would join two components; without it, sheets with a narrow gap run together.
    """

    def __init__(self, keys: KeysCollection, *, radius: float = 3.0, keep_apart: bool = True) -> None:
        super().__init__(keys)
        self.radius = radius
        self.keep_apart = keep_apart

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Masks become uint8 masks."""
        operation = close_sheets if self.keep_apart else close
        return _on_masks(self, data, self.radius >= 1, lambda m: operation(m, self.radius))


class PatchLargeHolesd(MapTransform):
    """Close larger holes of each sheet with a height map that continues the sheet around the hole.

    Holes of folded sheets, holes open to the edge, and those whose patch would touch another sheet, stay.

    Args:
        keys: masks (1, D, H, W).
        max_area: of a hole as seen from the axis that shows most of the sheet, in pixels; 0 for none.
        min_voxels: smaller sheets are left alone.
    """

    def __init__(self, keys: KeysCollection, *, max_area: int, min_voxels: int = 1000) -> None:
        super().__init__(keys)
        self.max_area = max_area
        self.min_voxels = min_voxels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Masks become uint8 masks."""
        return _on_masks(self, data, self.max_area > 0, lambda m: patch_holes(m, self.max_area, self.min_voxels))


class ClearOutsideSupportd(MapTransform):
    """Clear the mask where the CT holds nothing.

    Published scroll volumes are set to 0 outside a mask, and networks like to see a surface along its edge.

    Args:
        keys: masks (1, D, H, W).
        image_key: the image (1, D, H, W).
        empty: the image's value where there is no CT, after the transforms before this one; lower ones count too.
        min_voxels: smaller 6-connected regions of that value are dark voxels of the CT.
    """

    def __init__(
        self, keys: KeysCollection, *, image_key: str = "image", empty: float = 0.0, min_voxels: int = 1000
    ) -> None:
        super().__init__(keys)
        self.image_key = image_key
        self.empty = empty
        self.min_voxels = min_voxels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Masks become uint8 masks.

        Raises:
            ValueError: image and mask differ in shape.
        """
        outside = remove_small(_single(data[self.image_key]) <= self.empty, self.min_voxels, SIX)

        def clear(mask: np.ndarray) -> np.ndarray:
            if mask.shape != outside.shape:
                raise ValueError(f"mask {mask.shape} and image {outside.shape} must have one shape")
            return mask & ~outside

        return _on_masks(self, data, True, clear)


class PostprocessSurfaced(MapTransform):
    """All the steps: threshold, what lies outside the CT, specks, closing, pinholes, large holes, cavities.

    Args:
        keys: probabilities as for :class:`HysteresisThresholdd`.
        threshold_low, threshold_high: of the hysteresis; a plain threshold where the second is not larger.
        min_component_voxels: smaller components are removed.
        closing_radius: of the ball.
        pinhole_iterations: turns of plugging holes one voxel wide.
        max_hole_area: of a hole that is patched with a height map, in pixels.
        max_cavity_voxels: of a cavity that is filled; ``None`` for any size.
        image_key: clears the mask outside the support of this CT; ``None`` leaves it.
        empty: as for :class:`ClearOutsideSupportd`.
        channel: the one with the surface's probability.

    A 0 leaves a step out.
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
        support = [ClearOutsideSupportd(keys, image_key=image_key, empty=empty)] if image_key else []
        self.steps = Compose(
            [
                HysteresisThresholdd(keys, low=threshold_low, high=threshold_high, channel=channel),
                *support,
                RemoveSmallObjectsd(keys, min_size=min_component_voxels, connectivity=3),
                CloseWithBalld(keys, radius=closing_radius),
                # After the closing: it leaves pinholes and dents where its ball dips into a hole.
                PlugPinholesd(keys, iterations=pinhole_iterations),
                PatchLargeHolesd(keys, max_area=max_hole_area),
                FillCavitiesd(keys, max_voxels=max_cavity_voxels),
            ]
        )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """(C, D, H, W) probabilities become a (1, D, H, W) uint8 mask."""
        return self.steps(data)


def _on_masks(
    transform: MapTransform, data: Mapping[Hashable, Any], work: bool, operation: Callable[[np.ndarray], np.ndarray]
) -> dict[Hashable, Any]:
    """Apply an operation on (D, H, W) bool masks to every key, or only hand on if there is no work."""
    result = dict(data)
    for key in transform.key_iterator(result) if work else ():
        result[key] = _like(operation(_single(result[key]) != 0), result[key])
    return result


def _array(image: NdarrayOrTensor) -> np.ndarray:
    array = image.detach().cpu() if isinstance(image, torch.Tensor) else image
    if array.ndim != 4:
        raise ValueError(f"expected (C, D, H, W), got {tuple(array.shape)}")
    return np.asarray(array)


def _single(image: NdarrayOrTensor) -> np.ndarray:
    array = _array(image)
    if array.shape[0] != 1:
        raise ValueError(f"expected (1, D, H, W), got {array.shape}")
    return array[0]


def _like(mask: np.ndarray, image: NdarrayOrTensor) -> NdarrayOrTensor:
    """(D, H, W) as (1, D, H, W) uint8 of the image's kind: array, tensor or MetaTensor, with metadata and device."""
    return convert_to_dst_type(mask[None].astype(np.uint8), image, dtype=np.uint8)[0]

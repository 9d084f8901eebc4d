"""Clearing of a mask outside of the scan."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type, convert_to_numpy

from ..ops.components import SIX, remove_small

DARK_VOXELS = 1000
"""Smaller 6-connected empty regions are dark voxels within the scan."""


class ClearOutsided(MapTransform):
    """Clears masks where the CT is empty: published scrolls are 0 outside of the object.

    Along its border, networks tend to predict a surface.

    Example: ``{"_target_": "custom.transforms.ClearOutsided", "keys": "pred"}`` after ``@surface_postprocessing``

    Args:
        keys: masks (1, D, H, W), as the item's ``image``.
        empty: largest value of the CT outside of the scan, after the preceding transforms.

    Raises:
        ValueError: mask and CT differ in shape.
    """

    def __init__(self, keys: KeysCollection, *, empty: float = -1.0) -> None:
        super().__init__(keys)
        self.empty = empty

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        image = convert_to_numpy(result["image"])
        outside = remove_small(image[0] <= self.empty, DARK_VOXELS, SIX)
        for key in self.key_iterator(result):
            if result[key].shape != image.shape:
                raise ValueError(f"mask {tuple(result[key].shape)} and image {image.shape} must have one shape")
            result[key] = result[key] * convert_to_dst_type(np.logical_not(outside)[None], result[key])[0]
        return result

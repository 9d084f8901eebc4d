"""Targets of the surface losses."""

from collections.abc import Hashable, Mapping

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_data_type, convert_to_dst_type

from ..ops.target_layout import surface_target


class SurfaceTargetsd(MapTransform):
    """Adds the medial surface and the signed distance to a label, as further channels.

    Place it after all spatial transforms, since a warped skeleton is not the skeleton of the warped label.
    ``(1, D, H, W)`` with values {0, 1, 2} becomes ``(3, D, H, W)`` float32, see
    :data:`custom.ops.target_layout.TARGET_CHANNELS`.

    Example: ``SurfaceTargetsd("label", max_distance=10.0)``

    Args:
        keys: the labels.
        max_distance: where the distance is clipped, in voxels; the channel holds the distance divided by it.
        allow_missing_keys: whether missing keys are ignored.

    Raises:
        ValueError: an item is not ``(1, D, H, W)``.
    """

    def __init__(self, keys: KeysCollection, *, max_distance: float = 10.0, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.max_distance = max_distance

    def __call__(self, data: Mapping[Hashable, np.ndarray | torch.Tensor]) -> dict:
        """Return the item with each label replaced by its target, of the same array type."""
        data = dict(data)
        for key in self.key_iterator(data):
            label = convert_data_type(data[key], np.ndarray)[0]
            if label.ndim != 4 or label.shape[0] != 1:
                raise ValueError(f"SurfaceTargetsd: label (1, D, H, W) expected, found {tuple(label.shape)}")
            target = surface_target(label[0], self.max_distance)
            data[key] = convert_to_dst_type(target, data[key], dtype=target.dtype)[0]
        return data

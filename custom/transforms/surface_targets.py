"""From the label of a patch to the target of the surface losses."""

from collections.abc import Hashable, Mapping

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_data_type, convert_to_dst_type

from ..ops.target_layout import surface_target


class SurfaceTargetsd(MapTransform):
    """Add the medial surface and the signed distance to a label, as further channels.

    Comes after the last transform that moves voxels, so that both are those of the label as it is shown to the
    network: a warped skeleton is no skeleton of the warped label. ``(1, D, H, W)`` with values {0, 1, 2} becomes
    ``(3, D, H, W)`` float32, see :data:`custom.ops.target_layout.TARGET_CHANNELS`.

    Args:
        keys: keys of the labels.
        max_distance: where the distance is cut off, in voxels; the channel holds the distance divided by it. A false
            voxel farther away than this costs no more.
        allow_missing_keys: do not raise when a key is missing.

    Raises:
        ValueError: when an item is not ``(1, D, H, W)``.
    """

    def __init__(self, keys: KeysCollection, *, max_distance: float = 10.0, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.max_distance = max_distance

    def __call__(self, data: Mapping[Hashable, np.ndarray | torch.Tensor]) -> dict:
        """Returns the item with each key's label replaced by its target, of the same array type."""
        data = dict(data)
        for key in self.key_iterator(data):
            label = convert_data_type(data[key], np.ndarray)[0]
            if label.ndim != 4 or label.shape[0] != 1:
                raise ValueError(f"SurfaceTargetsd: label (1, D, H, W) expected, found {tuple(label.shape)}")
            target = surface_target(label[0], self.max_distance)
            data[key] = convert_to_dst_type(target, data[key], dtype=target.dtype)[0]
        return data

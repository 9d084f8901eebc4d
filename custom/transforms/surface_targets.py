"""Targets of the surface losses."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from monai.config import KeysCollection

from ..ops.target_layout import surface_targets
from .batch import BatchTransform


class SurfaceTargetsd(BatchTransform):
    """Adds the medial surface and the signed distance to a label, as further channels.

    Place it after all spatial transforms, since a warped skeleton is not the skeleton of the warped label.
    ``(1, D, H, W)`` with values {0, 1, 2} becomes ``(3, D, H, W)`` float32, see
    :data:`custom.ops.target_layout.TARGET_CHANNELS`.

    Example: ``SurfaceTargetsd("label", max_distance=10.0)``

    Args:
        max_distance: where the distance is clipped, in voxels; the channel holds the distance divided by it.

    Raises:
        ValueError: an item is not ``(1, D, H, W)``.
    """

    def __init__(self, keys: KeysCollection, *, max_distance: float = 10.0) -> None:
        super().__init__(keys)
        self.max_distance = max_distance

    def on_batch(self, batch: dict[Hashable, Any], states: Sequence[np.random.RandomState]) -> dict[Hashable, Any]:
        batch = dict(batch)
        for key in self.key_iterator(batch):
            label = batch[key]
            if label.ndim != 5 or label.shape[1] != 1:
                raise ValueError(f"SurfaceTargetsd: label (1, D, H, W) expected, found {tuple(label.shape[1:])}")
            batch[key] = surface_targets(label[:, 0], self.max_distance)
        return batch

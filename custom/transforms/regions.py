"""Conversion between label maps and regions: overlapping sets of labels, each with its own sigmoid channel."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type, convert_to_tensor

from ..errors import DataError
from .batch import BatchTransform

LIVER_REGIONS = ((1, 2), (2,))
"""Liver including its tumours, and tumours: the regions evaluated in LiTS."""


class LabelToRegionsd(BatchTransform):
    """Converts a label map ``(1, ...)`` to one binary channel per region ``(R, ...)``, uint8.

    uint8 makes the transfer to the device fast; the losses of :mod:`custom.losses` convert to float32.

    Example: ``LabelToRegionsd("label", regions=[[1, 2], [2]])``

    Args:
        regions: the label values of each region; ``[[1, 2], [2]]`` is liver and tumour, ``[[1]]`` a single class.
    """

    def __init__(self, keys: KeysCollection, *, regions: Sequence[Sequence[int]] = LIVER_REGIONS) -> None:
        super().__init__(keys)
        self.regions = [tuple(region) for region in regions]

    def on_batch(self, batch: dict[Hashable, Any], states: Sequence[np.random.RandomState]) -> dict[Hashable, Any]:
        batch = dict(batch)
        for key in self.key_iterator(batch):
            label = batch[key]
            if label.shape[1] != 1:
                raise ValueError(f"a label map has one channel, this one has the shape {tuple(label.shape[1:])}")
            regions = label.new_zeros((len(label), len(self.regions), *label.shape[2:]), dtype=torch.uint8)
            for channel, values in enumerate(self.regions):
                for value in values:
                    regions[:, channel] |= label[:, 0] == value
            batch[key] = regions
        return batch


class RegionsToLabeld(MapTransform):
    """Converts probabilities of regions ``(R, ...)`` to a label map ``(1, ...)``, uint8.

    If a voxel belongs to several regions, the last one wins: a tumour voxel becomes 2 whether or not it was also
    predicted as liver, as in nnU-Net's region-based training.
    :class:`~custom.transforms.liver_postprocessing.CleanLiverd` can then remove tumours outside of the liver.

    Example: ``RegionsToLabeld("pred", labels=(1, 2), thresholds=0.5)``

    Args:
        labels: the label of each region, in channel order.
        thresholds: minimum probability of each region, or one for all.
    """

    def __init__(
        self, keys: KeysCollection, *, labels: Sequence[int] = (1, 2), thresholds: float | Sequence[float] = 0.5
    ) -> None:
        super().__init__(keys)
        self.labels = tuple(labels)
        self.thresholds = (
            (thresholds,) * len(self.labels) if isinstance(thresholds, (int, float)) else tuple(thresholds)
        )
        if len(self.thresholds) != len(self.labels):
            raise DataError(f"{len(self.labels)} labels need as many thresholds, not {len(self.thresholds)}")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        output = dict(data)
        for key in self.key_iterator(data):
            output[key] = self._label_of(convert_to_tensor(data[key], track_meta=True))
        return output

    on_device = __call__
    """All of it is done where the regions are."""

    def _label_of(self, regions: torch.Tensor) -> torch.Tensor:
        if regions.shape[0] != len(self.labels):
            raise ValueError(f"{len(self.labels)} channels expected, one a label, found {tuple(regions.shape)}")
        plain = regions.as_subclass(torch.Tensor)
        label = plain.new_zeros((1, *plain.shape[1:]), dtype=torch.uint8)
        # Channel by channel and in place, to save memory.
        for channel, value, threshold in zip(plain, self.labels, self.thresholds, strict=True):
            label[0].masked_fill_(channel >= threshold, value)
        return convert_to_dst_type(label, regions, dtype=torch.uint8)[0]

"""Transforms of collated batches, on the device where these are.

A loader's workers crop the raw voxels. What is left to do costs a CPU hundreds of milliseconds for an item, and a GPU
one: :class:`BatchCompose` does it for a whole batch, in the workers or on the GPU (:class:`custom.data.StreamLoader`),
with the same results within rounding. On a GPU the host must never wait for a result, since the batches are prepared
while the previous step is computed: no ``.item()``, no masks as indices, no copies from memory that is not pinned.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor, list_data_collate
from monai.transforms import Compose, MapTransform, RandomizableTransform, ScaleIntensityRanged
from monai.utils import convert_to_dst_type, convert_to_tensor

SEED = "seed"
"""Key of the seed of each item, (B,) int64."""

_VOXEL_BY_VOXEL = (ScaleIntensityRanged,)
"""MONAI's transforms that treat a batch like an item."""


class BatchTransform(MapTransform, ABC):
    """A dictionary transform of items that can also be applied to a batch.

    Subclasses define :meth:`on_batch`; random ones also derive from ``RandomizableTransform``.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Transform one item; keys keep their array types."""
        keys = list(self.key_iterator(dict(data)))
        batch = {key: convert_to_tensor(data[key], track_meta=False)[None] for key in keys}
        result = self.on_batch(batch, [getattr(self, "R", None)])
        plain = {key: result[key][0] for key in keys}
        return {**data, **{key: convert_to_dst_type(plain[key], data[key], plain[key].dtype)[0] for key in keys}}

    @abstractmethod
    def on_batch(self, batch: dict[Hashable, Any], states: Sequence[np.random.RandomState]) -> dict[Hashable, Any]:
        """Return the batch with tensors ``(B, C, ...)`` transformed; item i draws its numbers from ``states[i]``."""


class RandBatchTransform(RandomizableTransform, BatchTransform, ABC):
    """A random transform of items and batches; ``randomize`` draws and returns the parameters of one item."""

    def __init__(self, keys: KeysCollection, prob: float) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)

    def drawn(self, states: Sequence[np.random.RandomState], size: Sequence[int]) -> dict[int, Any]:
        """Return what ``randomize`` draws for each item of spatial shape ``size`` that is to be changed."""
        found = {}
        for index, state in enumerate(states):
            self.set_random_state(state=state)
            parameters = self.randomize(size)
            if self._do_transform:
                found[index] = parameters
        return found


class RandItemTransform(RandBatchTransform, ABC):
    """A random transform of which each item is changed by itself."""

    def on_batch(self, batch: dict[Hashable, Any], states: Sequence[np.random.RandomState]) -> dict[Hashable, Any]:
        keys = list(self.key_iterator(batch))
        drawn = self.drawn(states, batch[keys[0]].shape[2:])
        for key in keys:
            items = {index: self.changed_item(batch[key][index], parameters) for index, parameters in drawn.items()}
            batch = {**batch, key: changed(batch[key], items)}
        return batch

    @abstractmethod
    def changed_item(self, item: torch.Tensor, parameters: Any) -> torch.Tensor:
        """Return an item ``(C, ...)`` changed by the drawn parameters."""


class BatchCompose:
    """Applies transforms to a batch, one after another.

    Random numbers of item i come from ``batch["seed"][i]`` alone, which is removed from the batch, so that an item does
    not depend on its neighbours. A :class:`BatchTransform` gets the batch, as do MONAI's transforms that treat all
    voxels alike; any other transform is called item by item.

    Example: ``BatchCompose([RandWarpd(keys=["image", "label"]), SurfaceTargetsd("label")])(batch)``

    Args:
        transforms: dictionary transforms.
    """

    def __init__(self, transforms: Sequence[Callable]) -> None:
        self.transforms = Compose(transforms).flatten().transforms

    def __call__(self, batch: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        batch = dict(batch)
        states = [np.random.RandomState(seed) for seed in batch.pop(SEED).tolist()]
        for transform in self.transforms:
            if isinstance(transform, BatchTransform):
                batch = transform.on_batch(batch, states)
            elif isinstance(transform, _VOXEL_BY_VOXEL):
                batch = transform(batch)
            else:
                batch = _item_by_item(transform, batch, states)
        return {key: _plain(value) for key, value in batch.items()}


def changed(tensor: torch.Tensor, items: Mapping[int, torch.Tensor]) -> torch.Tensor:
    """Return the batch ``(B, ...)`` with some of its items replaced."""
    if not items:
        return tensor
    return torch.stack([items.get(index, item) for index, item in enumerate(tensor)])


def chosen(tensor: torch.Tensor, indices: Sequence[int]) -> torch.Tensor:
    """Return some items of a batch; indexing by a list would copy it to the device, and wait."""
    return torch.stack([tensor[index] for index in indices])


def _item_by_item(
    transform: Callable, batch: dict[Hashable, Any], states: Sequence[np.random.RandomState]
) -> dict[Hashable, Any]:
    items = []
    for index, state in enumerate(states):
        if set_random_state := getattr(transform, "set_random_state", None):
            set_random_state(state=state)
        item = transform({key: value[index] for key, value in batch.items()})
        items.append({key: _plain(value) for key, value in item.items()})
    return list_data_collate(items)


def _plain(value: Any) -> Any:
    return value.as_tensor() if isinstance(value, MetaTensor) else value

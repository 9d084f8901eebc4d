"""Items of an evaluator on their way to a worker process."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, ScaleIntensityRanged
from monai.utils import TraceKeys

IMAGE = "image"
WITHOUT_VOXELS = (Invertd, ScaleIntensityRanged)
"""Transforms of MONAI that take at most metadata from the image."""

Item = dict[str, Any]


@dataclass(frozen=True)
class Postprocessing:
    """A post-processing in two parts: what the network's device does in no time, and the rest, for the CPU.

    A leading transform with a method ``on_device`` (one item to another) is applied where the prediction is, so that
    fewer bytes leave a GPU; its method ``afterwards``, if it has one, does the rest of its work.

    Attributes:
        on_device, afterwards: the parts.
        reads_image: whether the rest needs the voxels of the image, not just its metadata. A transform says so by an
            attribute of this name; others are assumed to need them.
    """

    on_device: Callable[[Item], Item]
    afterwards: Callable[[Item], Item]
    reads_image: bool

    @classmethod
    def of(cls, transform: Callable[[Item], Item] | None) -> "Postprocessing":
        """Divide a transform, or a ``Compose`` of several; None does nothing."""
        transforms = [] if transform is None else [transform]
        if type(transform) is Compose:
            transforms = list(transform.flatten().transforms)
        first, rest = [], []
        for each in transforms:
            if not rest and hasattr(each, "on_device"):
                first.append(each.on_device)
                rest += [each.afterwards] if hasattr(each, "afterwards") else []
            else:
                rest.append(each)
        return cls(Compose(first), Compose(rest), any(map(_reads_image, rest)))


def _reads_image(transform: Callable) -> bool:
    transform = getattr(transform, "__self__", transform)
    return getattr(transform, "reads_image", not isinstance(transform, WITHOUT_VOXELS))


def packed(item: Item, *, image: bool) -> Item:
    """Copy an item to main memory, with arrays for tensors: pickling these takes shared memory, which containers lack.

    Args:
        item: tensors on any device, and other values.
        image: whether the voxels of ``image`` are needed; without them, it is unpacked with zeros.
    """
    return {key: _pack(value, voxels=image or key != IMAGE) for key, value in item.items()}


def unpacked(item: Any) -> Any:
    """Return the item that was packed, on the CPU."""
    if isinstance(item, _Packed):
        tensor = torch.from_numpy(item.array).expand(item.shape)
        if item.meta is None:
            return tensor
        return MetaTensor(tensor, meta=unpacked(item.meta), applied_operations=unpacked(item.operations))
    if type(item) is dict:
        return {key: unpacked(value) for key, value in item.items()}
    return type(item)(map(unpacked, item)) if type(item) in (list, tuple) else item


@dataclass(frozen=True)
class _Packed:
    """A tensor, as an array that can be expanded to its shape, and the metadata of a MetaTensor."""

    array: np.ndarray
    shape: tuple[int, ...]
    meta: dict[str, Any] | None
    operations: list[Any]


def _pack(value: Any, *, voxels: bool = True) -> Any:
    if isinstance(value, torch.Tensor):
        plain = value.detach().as_subclass(torch.Tensor)
        plain = plain if voxels else torch.zeros((), dtype=value.dtype)
        meta, operations = None, []
        if isinstance(value, MetaTensor):
            meta = _pack(value.meta)
            operations = [_pack(_nameless(operation)) for operation in value.applied_operations]
        return _Packed(plain.cpu().numpy(), tuple(value.shape), meta, operations)
    if type(value) is dict:
        return {key: _pack(inner) for key, inner in value.items()}
    return type(value)(map(_pack, value)) if type(value) in (list, tuple) else value


def _nameless(operation: Any) -> Any:
    """An applied transform without its ``id``, by which its copy in another process would not be recognised."""
    return {**operation, TraceKeys.ID: TraceKeys.NONE} if isinstance(operation, dict) else operation

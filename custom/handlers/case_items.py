"""Items of an evaluator on their way to a worker process."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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


def packed(item: Item, *, image: bool) -> bytes:
    """Copy an item to main memory, as bytes: a pool would pickle tensors by shared memory, which containers lack.

    Args:
        item: tensors on any device, and other values.
        image: whether the voxels of ``image`` are needed; without them, it is unpacked with zeros.
    """
    tensors = {
        key: _in_main_memory(value, voxels=image or key != IMAGE)
        for key, value in item.items()
        if isinstance(value, torch.Tensor)
    }
    buffer = io.BytesIO()
    torch.save(item | tensors, buffer)
    return buffer.getvalue()


def unpacked(item: bytes) -> Item:
    """Return the item that was packed, on the CPU."""
    return torch.load(io.BytesIO(item), map_location="cpu", weights_only=False)


def _in_main_memory(tensor: torch.Tensor, *, voxels: bool) -> torch.Tensor:
    plain = tensor.detach().as_subclass(torch.Tensor)
    plain = plain.cpu() if voxels else torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)
    if not isinstance(tensor, MetaTensor):
        return plain
    # Without the id of the transform, by which its copy in another process would not be recognised.
    operations = [{**operation, TraceKeys.ID: TraceKeys.NONE} for operation in tensor.applied_operations]
    return MetaTensor(plain, meta=tensor.meta, applied_operations=operations)

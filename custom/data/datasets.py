"""Training patches, training slices and whole volumes from memory-mapped arrays.

Item k of :class:`PatchDataset` and :class:`SliceDataset` is a pure function of (seed, k) for every k >= 0: the stream
has no end, does not depend on the worker that makes an item nor on what was drawn before, and can be entered anywhere.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from monai.data import MetaTensor
from torch.utils.data import Dataset

from ..errors import DataError
from ..ops.liver_labels import LIVER, TUMOR
from ..ops.randomness import item_generator
from ..ops.slice_context import context_offsets, slice_neighbours
from .cached_volume import CachedVolume

logger = logging.getLogger(__name__)

FAR_WEIGHT = 0.25
"""How much a slice far from the organ counts in the share ``any``, against one near it."""


Volumes = Sequence[CachedVolume]
MakeCache = Callable[..., Volumes]
"""Called as ``cache(cases=...)``: :class:`custom.data.VolumeCache` with its other arguments given."""


def _cached(data: Sequence[Mapping[str, Any]] | Volumes, cache: MakeCache | None) -> Volumes:
    """The volumes of a dataset's arguments ``data`` and ``cache``."""
    return cast(Volumes, data) if cache is None else cache(cases=data)


class _Stream(Dataset, ABC):
    """Items drawn from labelled volumes by (seed, k); subclasses say how one is drawn."""

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]] | Volumes,
        cache: MakeCache | None,
        seed: int,
        transform: Callable | None,
    ) -> None:
        volumes = _cached(data, cache)
        if len(volumes) == 0:
            raise ValueError("no volumes to draw from")
        for volume in volumes:
            if volume.label is None:
                raise DataError.of(volume.id, "no label", "a label for every training volume")
        self.data = data
        self.volumes = volumes
        self.seed = seed
        self.transform = transform

    def __getitem__(self, k: int) -> dict[str, Any]:
        if k < 0:
            raise IndexError(f"item {k}: the stream starts at 0")
        rng = item_generator(self.seed, k)
        item = self._draw(k, rng)
        if self.transform is not None:
            if set_random_state := getattr(self.transform, "set_random_state", None):
                set_random_state(seed=int(rng.integers(2**32)))
            item = self.transform(item)
        # As MetaTensors they would take every operation of the network through Python; no one reads their metadata.
        return {key: value.as_tensor() if isinstance(value, MetaTensor) else value for key, value in item.items()}

    @abstractmethod
    def _draw(self, k: int, rng: np.random.Generator) -> dict[str, Any]:
        """Item k, before the transform."""


class PatchDataset(_Stream):
    """Random 3-D patches, some of them around foreground.

    Every volume comes once in each round of ``len(volumes)`` items, in a new order each round. With probability
    ``foreground_share`` the patch lies around a voxel of one of ``classes``, which is anywhere in its middle half along
    each axis; otherwise it lies anywhere in the volume. Patches stay inside the volume; where a volume is smaller than
    the patch it lies in the middle, as in MONAI's sliding window, with its outer voxels repeated in the image and
    ``label_padding`` in the label.

    An item is a dictionary of plain tensors and plain values: ``image`` (1, D, H, W) in the volume's own dtype,
    ``label`` (1, D, H, W) uint8, ``id`` and ``position`` (3,) int64, the volume's voxel at the patch's corner.
    Converting the dtype is left to the transform: the later, the smaller what is copied.

    Args:
        data: labelled cases, as from :func:`custom.data.find_cases`, or volumes if there is no ``cache``.
        cache: makes volumes of cases, such as a :class:`custom.data.VolumeCache` that lacks only its cases.
        patch_size: (D, H, W) in voxels.
        seed: of the run, 0 to 2**64 - 1.
        transform: a MONAI transform; a random one is seeded for each item anew, through its ``set_random_state``.
        foreground_share: probability of a patch around foreground.
        classes: label values that are foreground. One is picked at random, of those the volume has.
        label_padding: label value of voxels outside a volume smaller than the patch, such as the ignore label.

    Raises:
        DataError: a volume has no label.
    """

    def __init__(
        self,
        *,
        data: Sequence[Mapping[str, Any]] | Volumes,
        cache: MakeCache | None = None,
        patch_size: Sequence[int],
        seed: int,
        transform: Callable | None = None,
        foreground_share: float = 0.5,
        classes: Sequence[int] = (1,),
        label_padding: int = 0,
    ) -> None:
        super().__init__(data, cache, seed, transform)
        self.patch_size = np.array(patch_size)
        self.foreground_share = foreground_share
        self.classes = tuple(classes)
        self.label_padding = label_padding

    def __len__(self) -> int:
        """Items in a round; indices may go on beyond."""
        return len(self.volumes)

    def _draw(self, k: int, rng: np.random.Generator) -> dict[str, Any]:
        turn, place = divmod(k, len(self.volumes))
        order = item_generator(self.seed, turn, stream=1).permutation(len(self.volumes))
        volume = self.volumes[int(order[place])]
        image, label = volume.image, volume.label
        start = self._corner(volume, np.array(image.shape), rng)
        return {
            "image": _tensor(crop(image, start, self.patch_size, mode="edge"))[None],
            "label": _tensor(crop(label, start, self.patch_size, constant_values=self.label_padding))[None],
            "id": volume.id,
            "position": torch.from_numpy(start),
        }

    def _corner(self, volume: CachedVolume, shape: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        spare = shape - self.patch_size
        corner = rng.integers(0, np.maximum(spare, 0), endpoint=True)
        if rng.random() < self.foreground_share:
            foreground = volume.foreground
            present = [c for c in self.classes if len(foreground.get(c, ()))]
            if present:
                voxels = foreground[present[rng.integers(len(present))]]
                centre = voxels[rng.integers(len(voxels))] + rng.integers(
                    -(self.patch_size // 4), self.patch_size // 4 + 1
                )
                corner = np.clip(centre - self.patch_size // 2, 0, np.maximum(spare, 0))
        return np.where(spare < 0, -(-spare // 2), corner).astype(np.int64)


class SliceDataset(_Stream):
    """Random slices along the first axis with their neighbours, for 2-D and 2.5-D networks.

    An item first draws one of ``shares``, then one of the volumes that have such slices, then one of these:

    - ``tumor``: a slice with label 2;
    - ``liver``: a slice with any label but 0;
    - ``any``: every slice of the volume, but one further than ``near_mm`` from the nearest labelled slice counts only a
      quarter, so that the negatives are mostly those next to the organ.

    A share that no slice can fill (no tumour in binary labels) falls to the others, with a warning.

    An item is a dictionary of plain tensors and plain values: ``image`` (1 + 2 * n_context, H, W) in the volume's own
    dtype, ascending along the first axis with the slice itself in the middle, ``label`` (1, H, W) uint8 of that slice,
    ``id`` and ``slice``. Volumes of different H and W need a transform that makes them equal.

    Args:
        data: labelled cases, as from :func:`custom.data.find_cases`, or volumes if there is no ``cache``.
        cache: makes volumes of cases, such as a :class:`custom.data.VolumeCache` that lacks only its cases.
        seed: of the run, 0 to 2**64 - 1.
        transform: a MONAI transform; a random one is seeded for each item anew, through its ``set_random_state``.
        n_context: neighbouring slices on either side.
        context_mm: millimetres between them; ``None`` takes adjacent slices (see :mod:`custom.ops.slice_context`).
        shares: probability of each kind of slice; they are scaled to a sum of 1.
        near_mm: how far the surroundings of the organ reach along the first axis.

    Raises:
        DataError: a volume has no label.
        ValueError: an unknown or negative share.
    """

    def __init__(
        self,
        *,
        data: Sequence[Mapping[str, Any]] | Volumes,
        cache: MakeCache | None = None,
        seed: int,
        transform: Callable | None = None,
        n_context: int = 0,
        context_mm: float | None = None,
        shares: Mapping[str, float] | None = None,
        near_mm: float = 50.0,
    ) -> None:
        super().__init__(data, cache, seed, transform)
        shares = {"tumor": 1 / 3, "liver": 1 / 3, "any": 1 / 3} if shares is None else dict(shares)
        if not set(shares) <= {"tumor", "liver", "any"} or min(shares.values(), default=0) < 0:
            raise ValueError(f"shares {shares}: expected numbers of 0 or more for tumor, liver and any")
        self.offsets = [context_offsets(n_context, context_mm, float(v.spacing[0])) for v in self.volumes]
        self._length = sum(len(volume.label_histogram) for volume in self.volumes)
        # Per share the volumes that have such slices: (index of the volume, slices, cumulative weights).
        self._choices: dict[str, list[tuple[int, np.ndarray, np.ndarray]]] = {}
        for share in shares:
            weights = [_slice_weights(share, volume, near_mm) for volume in self.volumes]
            self._choices[share] = [
                (i, np.flatnonzero(w), np.cumsum(w[w > 0])) for i, w in enumerate(weights) if w.any()
            ]
        for share in [share for share, choices in self._choices.items() if shares[share] and not choices]:
            logger.warning(
                "no slice of the training volumes is of the share %r; the other shares take its place", share
            )
        self.shares = {share: value for share, value in shares.items() if self._choices[share] and value > 0}
        if not self.shares:
            raise ValueError(f"shares {shares}: no slice of the training volumes is of any of them")

    def __len__(self) -> int:
        """Slices in all volumes; indices may go on beyond."""
        return self._length

    def _draw(self, k: int, rng: np.random.Generator) -> dict[str, Any]:
        probabilities = np.array(list(self.shares.values()))
        share = list(self.shares)[rng.choice(len(self.shares), p=probabilities / probabilities.sum())]
        choices = self._choices[share]
        which, slices, cumulative = choices[rng.integers(len(choices))]
        index = int(slices[np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right")])
        volume = self.volumes[which]
        image = volume.image
        return {
            "image": _tensor(image[slice_neighbours(index, len(image), self.offsets[which])]),
            "label": _tensor(volume.label[index].copy())[None],
            "id": volume.id,
            "slice": index,
        }


class VolumeDataset(Dataset):
    """Whole volumes in their order, for validation and evaluation.

    An item is ``id``, ``image`` (1, D, H, W) in the volume's own dtype and, where there is one, ``label`` (1, D, H, W)
    uint8. Both are MetaTensors with the affine and ``id``, for metrics by case in millimetres, and with
    ``filename_or_obj`` and ``original_affine``, for writers of files.

    Args:
        data: cases, or volumes if there is no ``cache``.
        cache: makes volumes of cases, such as a :class:`custom.data.VolumeCache` that lacks only its cases.
        transform: a MONAI transform.
    """

    def __init__(
        self,
        *,
        data: Sequence[Mapping[str, Any]] | Volumes,
        cache: MakeCache | None = None,
        transform: Callable | None = None,
    ) -> None:
        self.data = data
        self.volumes = _cached(data, cache)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.volumes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        volume = self.volumes[index]
        arrays = {"image": volume.image, "label": volume.label}
        item: dict[str, Any] = {"id": volume.id}
        for key, array in arrays.items():
            if array is not None:
                meta = {
                    "id": volume.id,
                    "filename_or_obj": volume.image_path,
                    "original_affine": torch.tensor(volume.original_affine),
                }
                item[key] = MetaTensor(_tensor(array.copy())[None], affine=torch.tensor(volume.affine), meta=meta)
        return item if self.transform is None else self.transform(item)


def crop(array: np.ndarray, start: np.ndarray, size: np.ndarray, **padding: Any) -> np.ndarray:
    """A copy of the box at ``start``; only the box is read of a memory map. Where it reaches out it is padded.

    Args:
        array: (D, H, W).
        start: the box's first voxel; may be negative.
        size: of the box.
        padding: keywords of ``numpy.pad``.
    """
    low, high = np.maximum(start, 0), np.minimum(start + size, array.shape)
    box = np.array(array[tuple(map(slice, low, high))])
    if np.array_equal(high - low, size):
        return box
    return np.pad(box, list(zip(low - start, start + size - high, strict=True)), **padding)


def _tensor(array: np.ndarray) -> torch.Tensor:
    """Share the array's memory; uint16, which torch can hold but hardly compute with, becomes int32."""
    return torch.from_numpy(np.asarray(array, np.int32 if array.dtype == np.uint16 else None))


def _slice_weights(share: str, volume: CachedVolume, near_mm: float) -> np.ndarray:
    """(D,) how often each slice of the volume is drawn for a share, up to a factor."""
    counts = np.asarray(volume.label_histogram)
    labelled = counts[:, LIVER:].any(1)
    if share == "tumor":
        return counts[:, TUMOR:].any(1).astype(float)
    if share == "liver":
        return labelled.astype(float)
    places = np.flatnonzero(labelled)
    if len(places) == 0:
        return np.ones(len(counts))
    distance = np.abs(np.arange(len(counts))[:, None] - places).min(1) * float(volume.spacing[0])
    return np.where(distance <= near_mm, 1.0, FAR_WEIGHT)

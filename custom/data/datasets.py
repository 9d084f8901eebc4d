"""Datasets of training patches, training slices and whole volumes.

Item k of :class:`PatchDataset` and :class:`SliceDataset` depends on (seed, k) alone, for every k >= 0: the stream of
items is endless, the same for any number of workers, and can be resumed anywhere.
"""

import logging
import math
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

NEAR_MM = 50.0
"""Distance along the first axis up to which a slice is near the organ."""
FAR_WEIGHT = 0.25
"""Weight of a slice far from the organ in the share ``any``, relative to one near it."""

Volumes = Sequence[CachedVolume]
Data = Sequence[Mapping[str, Any]] | Volumes
MakeCache = Callable[..., Volumes]
"""Called as ``cache(cases=...)``, such as a partial of :class:`custom.data.VolumeCache`."""


def _cached(data: Data, cache: MakeCache | None) -> Volumes:
    return cast(Volumes, data) if cache is None else cache(cases=data)


class _RandomItems(Dataset, ABC):
    """Items drawn from labelled volumes by (seed, k); subclasses define ``_draw``."""

    def __init__(self, data: Data, cache: MakeCache | None, seed: int, transform: Callable | None) -> None:
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
        item["seed"] = int(rng.integers(2**32))
        # As plain tensors: operations on MetaTensors are slower, and the metadata is not used in training.
        return {key: value.as_tensor() if isinstance(value, MetaTensor) else value for key, value in item.items()}

    @abstractmethod
    def _draw(self, k: int, rng: np.random.Generator) -> dict[str, Any]:
        """Item k before the transform."""


class PatchDataset(_RandomItems):
    """Random 3-D patches, a share of them centred near foreground.

    Every round of ``len(volumes)`` items contains each volume once, in random order. With probability
    ``foreground_share`` the patch is placed so that a foreground voxel lies in its middle half along each axis;
    otherwise anywhere in the volume. A volume smaller than the patch is centred in it, as in MONAI's sliding window,
    and padded with its edge values (the image) or ``label_padding`` (the label).

    An item is a dictionary: ``image`` (1, D, H, W) in the volume's dtype, ``label`` (1, D, H, W) uint8, ``id``,
    ``position`` (3,) int64, the volume's voxel at the patch's corner, and ``seed``, for random transforms of batches
    (:class:`custom.transforms.BatchCompose`); tensors without metadata.

    Example: ``PatchDataset(data=find_cases("/data/vesuvius"), cache=partial(VolumeCache, cache_dir="cache",
    modality="scroll"), patch_size=(72, 136, 136), seed=0)``

    Args:
        data, cache, seed, transform: see :class:`SliceDataset`.
        patch_size: (D, H, W) in voxels.
        foreground_share: probability of a patch near foreground.
        classes: label values of foreground; one of those present in the volume is chosen at random.
        label_padding: label value outside of a volume smaller than the patch, such as the ignored label.

    Raises:
        DataError: a volume has no label.
    """

    def __init__(
        self,
        *,
        data: Data,
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
        """Return the number of items in a round; higher indices are allowed."""
        return len(self.volumes)

    def _draw(self, k: int, rng: np.random.Generator) -> dict[str, Any]:
        round_index, place = divmod(k, len(self.volumes))
        order = item_generator(self.seed, round_index, stream=1).permutation(len(self.volumes))
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


class SliceDataset(_RandomItems):
    """Random slices along the first axis with their neighbours as channels, for 2-D and 2.5-D networks.

    For each item one of ``shares`` is drawn, then one of the volumes with such slices, then one of these slices:

    - ``tumor``: slices with label 2;
    - ``liver``: slices with any label but 0;
    - ``any``: all slices of the volume, those further than 50 mm from the nearest labelled slice with a quarter
      of the weight, so that most negatives are close to the organ.

    The probability of a share without any slice (no tumour in binary labels) goes to the others, with a warning.

    An item is a dictionary: ``image`` (1 + 2 * n_context, H, W) in the volume's dtype, ascending along the first axis
    with the slice itself in the middle, ``label`` (1, H, W) uint8 of that slice, ``id``, ``slice``, and ``seed``, for
    random transforms of batches (:class:`custom.transforms.BatchCompose`); tensors without metadata.

    Example: ``SliceDataset(data=find_cases("/data/lits"), cache=partial(VolumeCache, cache_dir="cache", modality="ct"),
    seed=0, n_context=1)``

    Args:
        data: labelled cases, as from :func:`custom.data.find_cases`, or volumes if there is no ``cache``.
        cache: creates volumes from cases: a :class:`custom.data.VolumeCache` with all arguments but ``cases`` bound.
        seed: the run's seed, 0 to 2**64 - 1.
        transform: a MONAI transform; if random, it is seeded for each item by its ``set_random_state``.
        slice_size: (H, W) to which slices are cropped or padded about their centre, as by MONAI's
            ``ResizeWithPadOrCrop``; None: as they are, which must then be equal in all volumes.
        image_padding: grey value outside of a slice smaller than that, rounded down if grey values are whole numbers;
            the label is padded with 0.
        n_context: number of neighbouring slices on either side.
        context_mm: their distance in mm; None: adjacent slices (see :mod:`custom.ops.slice_context`).
        shares: relative probability of each kind of slice.

    Raises:
        DataError: a volume has no label.
        ValueError: an unknown or negative share.
    """

    def __init__(
        self,
        *,
        data: Data,
        cache: MakeCache | None = None,
        seed: int,
        transform: Callable | None = None,
        slice_size: Sequence[int] | None = None,
        image_padding: float = 0,
        n_context: int = 0,
        context_mm: float | None = None,
        shares: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(data, cache, seed, transform)
        shares = {"tumor": 1 / 3, "liver": 1 / 3, "any": 1 / 3} if shares is None else dict(shares)
        if not set(shares) <= {"tumor", "liver", "any"} or min(shares.values(), default=0) < 0:
            raise DataError(f"shares {shares}: expected numbers of 0 or more for tumor, liver and any")
        self.slice_size, self.image_padding = slice_size, image_padding
        self.offsets = [context_offsets(n_context, context_mm, float(v.spacing[0])) for v in self.volumes]
        self._length = sum(len(volume.label_histogram) for volume in self.volumes)
        # For each share: (index of the volume, its slices, cumulative weights).
        self._choices: dict[str, list[tuple[int, np.ndarray, np.ndarray]]] = {}
        for share in shares:
            weights = [_slice_weights(share, volume) for volume in self.volumes]
            self._choices[share] = [
                (i, np.flatnonzero(w), np.cumsum(w[w > 0])) for i, w in enumerate(weights) if w.any()
            ]
        for share in [share for share, choices in self._choices.items() if shares[share] and not choices]:
            logger.warning(
                "no slice of the training volumes is of the share %r; the other shares take its place", share
            )
        self.shares = {share: value for share, value in shares.items() if self._choices[share] and value > 0}
        if not self.shares:
            raise DataError(f"shares {shares}: no slice of the training volumes is of any of them")

    def __len__(self) -> int:
        """Return the number of slices in all volumes; higher indices are allowed."""
        return self._length

    def _draw(self, k: int, rng: np.random.Generator) -> dict[str, Any]:
        probabilities = np.array(list(self.shares.values()))
        share = list(self.shares)[rng.choice(len(self.shares), p=probabilities / probabilities.sum())]
        choices = self._choices[share]
        which, slices, cumulative = choices[rng.integers(len(choices))]
        index = int(slices[np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right")])
        volume = self.volumes[which]
        image = volume.image[slice_neighbours(index, len(volume.image), self.offsets[which])]
        label = volume.label[index].copy()[None]
        if self.slice_size is not None:
            image, label = (
                _centred(array, self.slice_size, value) for array, value in ((image, self.image_padding), (label, 0))
            )
        return {"image": _tensor(image), "label": _tensor(label), "id": volume.id, "slice": index}


class VolumeDataset(Dataset):
    """Whole volumes in order, for validation and evaluation.

    An item is ``id``, ``image`` (1, D, H, W) in the volume's dtype and, if there is one, ``label`` (1, D, H, W) uint8.
    Both are MetaTensors with the affine, ``id``, ``filename_or_obj`` and ``original_affine``.

    Example: ``VolumeDataset(data=cases, cache=partial(VolumeCache, cache_dir="cache", modality="ct"))``

    Args:
        data, cache: see :class:`SliceDataset`; labels are optional.
        transform: a MONAI transform.
    """

    def __init__(self, *, data: Data, cache: MakeCache | None = None, transform: Callable | None = None) -> None:
        self.data = data
        self.volumes = _cached(data, cache)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.volumes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        volume = self.volumes[index]
        item: dict[str, Any] = {"id": volume.id}
        for key, array in {"image": volume.image, "label": volume.label}.items():
            if array is not None:
                affine = torch.tensor(volume.original_affine)
                meta = {"id": volume.id, "filename_or_obj": volume.image_path, "original_affine": affine}
                item[key] = MetaTensor(_tensor(array.copy())[None], affine=torch.tensor(volume.affine), meta=meta)
        return item if self.transform is None else self.transform(item)


def crop(array: np.ndarray, start: np.ndarray, size: np.ndarray, **padding: Any) -> np.ndarray:
    """Copy a box out of an array, reading only the box from a memory map; parts outside of the array are padded.

    Args:
        array: (D, H, W).
        start: the box's first voxel; may be negative.
        size: (D, H, W) of the box.
        padding: keyword arguments of ``numpy.pad``.
    """
    low, high = np.maximum(start, 0), np.minimum(start + size, array.shape)
    box = np.array(array[tuple(map(slice, low, high))])
    if np.array_equal(high - low, size):
        return box
    return np.pad(box, list(zip(low - start, start + size - high, strict=True)), **padding)


def _centred(slices: np.ndarray, size: Sequence[int], value: float) -> np.ndarray:
    """Crop or pad slices (C, H, W) about their centre; if need be in a dtype that can hold the padding value."""
    shape = slices.shape[1:]
    if tuple(shape) == tuple(size):
        return slices
    start = [n // 2 - m // 2 if n > m else -((m - n) // 2) for n, m in zip(shape, size, strict=True)]
    if any(n < m for n, m in zip(shape, size, strict=True)):
        value = value if np.issubdtype(slices.dtype, np.floating) else math.floor(value)
        slices = slices.astype(np.promote_types(slices.dtype, np.min_scalar_type(value)), copy=False)
    return crop(slices, np.array([0, *start]), np.array([len(slices), *size]), constant_values=value)


def _tensor(array: np.ndarray) -> torch.Tensor:
    """Convert without a copy; uint16, which few torch operations support, becomes int32."""
    return torch.from_numpy(np.asarray(array, np.int32 if array.dtype == np.uint16 else None))


def _slice_weights(share: str, volume: CachedVolume) -> np.ndarray:
    """Relative probability (D,) of each slice of the volume within a share."""
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
    return np.where(distance <= NEAR_MM, 1.0, FAR_WEIGHT)

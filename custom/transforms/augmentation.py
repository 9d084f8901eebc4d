"""Augmentation of scroll patches that MONAI has not: patches that vanish, sheets that are pressed together."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from monai.config import KeysCollection
from monai.transforms import RandCoarseDropoutd, RandomizableTransform
from monai.transforms.intensity.array import RandCoarseTransform
from monai.transforms.transform import Transform
from monai.utils import convert_data_type, convert_to_dst_type
from scipy import ndimage

from ..ops import compression
from ..ops.target_layout import IGNORE_LABEL


class RandPatchDropoutd(RandCoarseDropoutd):
    """Blank random cuboids of the image, so that the network learns to continue a sheet through damage.

    :class:`monai.transforms.RandCoarseDropoutd`, which knows constants and noise, and writes into the array it is
    given, with the mean of the item as filling, on a copy. Leave the label out of ``keys``: the sheet is to be
    predicted across the cuboid.

    Args:
        keys: keys of the images, of one spatial shape; they lose the same cuboids.
        holes: number of cuboids, or the least where ``max_holes`` is given.
        spatial_size: edges of a cuboid in voxels, or the least where ``max_spatial_size`` is given.
        max_holes: largest number of cuboids.
        max_spatial_size: largest edges.
        fill: ``"mean"`` of the item or a number.
        prob: probability that an item loses any.
        allow_missing_keys: do not raise when a key is missing.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        holes: int,
        spatial_size: Sequence[int] | int,
        max_holes: int | None = None,
        max_spatial_size: Sequence[int] | int | None = None,
        fill: float | Literal["mean"] = "mean",
        prob: float = 0.1,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, holes, spatial_size, prob=prob, allow_missing_keys=allow_missing_keys)
        self.dropper = _PatchDropout(
            holes=holes, spatial_size=spatial_size, max_holes=max_holes, max_spatial_size=max_spatial_size, prob=1.0
        )
        self.dropper.fill = fill


class _PatchDropout(RandCoarseTransform):
    fill: float | Literal["mean"]

    def _transform_holes(self, img: np.ndarray) -> np.ndarray:
        img = img.copy()
        value = np.clip(img.mean(), img.min(), img.max()) if self.fill == "mean" else self.fill  # against rounding
        for hole in self.hole_coords:
            img[hole] = value
        return img


class RandSheetCompressiond(RandomizableTransform, Transform):
    """Press the sheets of a scroll patch together: shorten the dark gaps between them along the axis that crosses them.

    The hardest case of the competition is sheets that nearly touch, and a scan holds few of them that are labelled.
    Gaps are found in the image. Labelled surfaces and the voxels on both their sides keep their full length, so
    surfaces stay as thick as they were, and a gap of two voxels or more stays at least two wide. Image (linear) and
    label follow one map. What moves in at the two ends is mirrored in the image and ignored in the label.

    Args:
        image_key: key of the image ``(1, D, H, W)``; it becomes float32.
        label_key: key of the label ``(1, D, H, W)``; keeps its dtype.
        strength: range of the share that the darkest voxels are shortened by, within [0, 1).
        max_shear: how far neighbouring columns may slide along each other, in voxels. The strength is lowered where
            the sheets are so oblique or irregular that it would be more.
        label_fill: label of what moves in.
        prob: probability that an item is compressed.

    Raises:
        ValueError: when the strength is outside [0, 1).
    """

    def __init__(
        self,
        *,
        image_key: str = "image",
        label_key: str = "label",
        strength: Sequence[float] = (0.3, 0.7),
        max_shear: float = 0.5,
        label_fill: int = IGNORE_LABEL,
        prob: float = 0.1,
    ) -> None:
        RandomizableTransform.__init__(self, prob)
        if not 0 <= strength[0] <= strength[1] < 1:
            raise ValueError(f"strength within [0, 1) expected, found {list(strength)}")
        self.image_key = image_key
        self.label_key = label_key
        self.strength = strength
        self.max_shear = max_shear
        self.label_fill = label_fill

    def randomize(self, data: Any = None) -> None:
        """Draw whether to compress, and how strongly."""
        super().randomize(None)
        self.drawn_strength = self.R.uniform(*self.strength)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns the item with image and label compressed, of the array types and shapes that they had."""
        data = dict(data)
        self.randomize()
        image = convert_data_type(data[self.image_key], np.ndarray, dtype=np.float32)[0]
        if self._do_transform:
            label = convert_data_type(data[self.label_key], np.ndarray)[0]
            pressed = self._press(image[0], label[0], self.drawn_strength)
            image, label = (np.ascontiguousarray(array)[None] for array in pressed)
            data[self.label_key] = convert_to_dst_type(label, data[self.label_key], dtype=label.dtype)[0]
        data[self.image_key] = convert_to_dst_type(image, data[self.image_key], dtype=np.float32)[0]
        return data

    def _press(self, image: np.ndarray, label: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
        axis = compression.sheet_axis(image)
        gap = compression.gaps(image, axis)
        gap[_with_neighbours(label == 1, axis)] = 0
        strength = min(strength, self.max_shear / max(compression.shear(gap, axis), 1e-6))

        gap, image, label = (np.ascontiguousarray(np.moveaxis(array, axis, -1)) for array in (gap, image, label))
        index, position = compression.compress(1 - strength * gap)
        image = compression.interpolate(image, position)
        surface = compression.move_mask(label == 1, position)
        # Where no surface arrives, the nearest voxel says whether it is background or ignored.
        label = np.take_along_axis(np.where(label == 1, 0, label), index, axis=-1)
        label = np.where(index < 0, self.label_fill, np.where(surface, 1, label)).astype(label.dtype)
        return np.moveaxis(image, -1, axis), np.moveaxis(label, -1, axis)


def _with_neighbours(mask: np.ndarray, axis: int) -> np.ndarray:
    """A mask and the voxels beside it along one axis."""
    structure = np.zeros((3, 3, 3), dtype=bool)
    structure[tuple(slice(None) if other == axis else 1 for other in range(3))] = True
    return ndimage.binary_dilation(mask, structure)

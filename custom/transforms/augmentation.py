"""Augmentation of scroll patches: cuboids blanked out, contrast, noise, and sheets pressed together."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import RandCoarseDropout, RandomizableTransform
from monai.transforms.transform import Transform
from monai.utils import convert_to_dst_type, convert_to_tensor

from ..errors import DataError
from ..ops import compression
from ..ops.randomness import normal_noise
from ..ops.target_layout import IGNORE_LABEL
from .batch import RandItemTransform


class RandPatchDropoutd(RandItemTransform):
    """Blanks random cuboids of the image, so that the network learns to continue a sheet through damage.

    Unlike :class:`monai.transforms.RandCoarseDropoutd` it can fill with the item's mean, works on a copy, and on
    batches. Do not list the label in ``keys``: the sheet is to be predicted across the cuboid.

    Example: ``RandPatchDropoutd("image", prob=0.2, holes=1, max_holes=6, spatial_size=8, max_spatial_size=24)``

    Args:
        keys: images of equal spatial shape; the same cuboids are blanked in all.
        holes: number of cuboids; the minimum if ``max_holes`` is given.
        spatial_size: edges of a cuboid in voxels; the minimum if ``max_spatial_size`` is given. As in MONAI, the edges
            of each further cuboid are then drawn from those of the one before to the maximum.
        max_holes: largest number of cuboids.
        max_spatial_size: largest edges.
        fill: ``"mean"`` of the item, or a number.
        prob: probability that an item is changed.
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
    ) -> None:
        super().__init__(keys, prob)
        self.holes = RandCoarseDropout(
            holes=holes, spatial_size=spatial_size, max_holes=max_holes, max_spatial_size=max_spatial_size, prob=1.0
        )
        self.fill = fill

    def randomize(self, size: Sequence[int]) -> list[tuple[slice, ...]]:
        super().randomize(None)
        if not self._do_transform:
            return []
        self.holes.set_random_state(state=self.R)
        self.holes.randomize(size)
        return self.holes.hole_coords

    def changed_item(self, item: torch.Tensor, parameters: list[tuple[slice, ...]]) -> torch.Tensor:
        image = item.clone()
        low, high = image.aminmax()
        value = image.float().mean().clamp(low, high) if self.fill == "mean" else self.fill  # rounding
        for hole in parameters:
            image[hole] = value
        return image


class RandContrastd(RandItemTransform):
    """Gamma correction of the image between its own extremes, as :class:`monai.transforms.RandAdjustContrastd`.

    MONAI's makes the host wait for the extremes, and does not work on batches.

    Example: ``RandContrastd("image", prob=0.3, gamma=(0.7, 1.5))``

    Args:
        keys: floating images; the same gamma for all.
        gamma: its range.
        prob: probability that an item is changed.
    """

    def __init__(self, keys: KeysCollection, *, gamma: Sequence[float], prob: float = 0.1) -> None:
        super().__init__(keys, prob)
        if not 0 < gamma[0] <= gamma[1]:
            raise DataError.of("gamma", str(list(gamma)), "a range of positive numbers")
        self.gamma = gamma

    def randomize(self, data: Any = None) -> float:
        super().randomize(None)
        return self.R.uniform(*self.gamma)

    def changed_item(self, item: torch.Tensor, parameters: float) -> torch.Tensor:
        low, high = item.aminmax()
        width = high - low
        # Clipped, against rounding.
        return ((item - low) / (width + 1e-7)).pow_(parameters).mul_(width).add_(low).clamp_(low, high)


class RandNoised(RandItemTransform):
    """Adds Gaussian noise to the image, as :class:`monai.transforms.RandGaussianNoised`.

    MONAI draws the noise on the host. Here it is computed where the image is, and the same on every device
    (:func:`custom.ops.randomness.normal_noise`).

    Example: ``RandNoised("image", prob=0.3, std=0.1)``

    Args:
        keys: floating images of equal shape; the same noise for all.
        std: the standard deviation of an item's noise is drawn from 0 to this.
        prob: probability that an item is changed.
    """

    def __init__(self, keys: KeysCollection, *, std: float = 0.1, prob: float = 0.1) -> None:
        super().__init__(keys, prob)
        self.std = std

    def randomize(self, data: Any = None) -> tuple[float, int]:
        super().randomize(None)
        return self.R.uniform(0, self.std), int(self.R.randint(2**63, dtype=np.int64))

    def changed_item(self, item: torch.Tensor, parameters: tuple[float, int]) -> torch.Tensor:
        std, key = parameters
        return normal_noise(item.shape, key, item.device).mul_(std).add_(item)


class RandSheetCompressiond(RandomizableTransform, Transform):
    """Presses the sheets of a scroll patch together, by shortening the dark gaps between them.

    Sheets that nearly touch are the hardest case of the competition, and rarely labelled. The axis across the sheets
    and the gaps are found in the image. Labelled surfaces and the voxels on both sides are not shortened, so surfaces
    keep their thickness, and a gap of two or more voxels stays at least two wide. Image (linear interpolation) and
    label are transformed alike. Voxels from beyond the patch are mirrored in the image and ignored in the label.

    Example: ``RandSheetCompressiond(prob=0.15, strength=(0.3, 0.7))``

    Args:
        strength: range of the fraction by which the darkest voxels are shortened, within [0, 1).
        max_shear: largest displacement between neighbouring columns, in voxels. The strength is reduced for oblique or
            irregular sheets that would exceed it.
        prob: probability that an item is compressed.

    Shape:
        ``image`` and ``label`` ``(1, D, H, W)``, which keep their dtypes; whole numbers are rounded.

    Raises:
        ValueError: the strength is outside of [0, 1).
    """

    def __init__(
        self,
        *,
        strength: Sequence[float] = (0.3, 0.7),
        max_shear: float = 0.5,
        prob: float = 0.1,
    ) -> None:
        RandomizableTransform.__init__(self, prob)
        if not 0 <= strength[0] <= strength[1] < 1:
            raise ValueError(f"strength within [0, 1) expected, found {list(strength)}")
        self.strength, self.max_shear = strength, max_shear

    def randomize(self, data: Any = None) -> None:
        super().randomize(None)
        self.drawn_strength = self.R.uniform(*self.strength)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        data = dict(data)
        self.randomize()
        if self._do_transform:
            image, label = (convert_to_tensor(data[key], track_meta=False)[0] for key in ("image", "label"))
            pressed = self._compress(image, label, self.drawn_strength)
            for key, tensor in zip(("image", "label"), pressed, strict=True):
                data[key] = convert_to_dst_type(tensor.contiguous()[None], data[key], dtype=tensor.dtype)[0]
        return data

    def _compress(self, image: torch.Tensor, label: torch.Tensor, strength: float) -> tuple[torch.Tensor, torch.Tensor]:
        axis = compression.sheet_axis(image)
        image, label = (tensor.movedim(axis, 0).contiguous() for tensor in (image, label))
        surface = label == 1
        gap = compression.gaps(image).masked_fill_(_with_neighbours(surface), 0)
        strength = min(strength, self.max_shear / max(compression.shear(gap), 1e-6))

        index, position = compression.compress(1 - strength * gap)
        pressed = compression.interpolate(image.float(), position)
        if not image.is_floating_point():
            pressed = pressed.round_()
        # Elsewhere the nearest voxel decides between background and ignored.
        other = compression.voxels_at(label.masked_fill(surface, 0), index.clamp(min=0))
        other = other.masked_fill_(compression.move_mask(surface, position), 1).masked_fill_(index < 0, IGNORE_LABEL)
        return pressed.to(image.dtype).movedim(0, axis), other.movedim(0, axis)


def _with_neighbours(mask: torch.Tensor) -> torch.Tensor:
    grown = mask.clone()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    return grown

"""Flips and quarter turns of patches."""

from collections.abc import Sequence

from monai.config import KeysCollection
from monai.transforms import Compose, RandFlipd, RandRotate90d

from ..errors import DataError

PLANES = ((1, 2), (0, 1), (0, 2))


class RandSymmetriesd(Compose):
    """Random flips along all three axes, and random quarter turns in planes with equal sides.

    Example: ``RandSymmetriesd(["image", "label"], spatial_size=(72, 136, 136))``

    Args:
        keys: arrays ``(C, D, H, W)``, all transformed alike.
        spatial_size: (D, H, W) of the patch, which determines the planes of the turns.
        flip_prob: probability of a flip along each axis.
        rotate_prob: probability of one to three quarter turns in each plane.

    Raises:
        DataError: ``spatial_size`` is not three numbers.
    """

    def __init__(
        self, keys: KeysCollection, *, spatial_size: Sequence[int], flip_prob: float = 0.5, rotate_prob: float = 0.75
    ) -> None:
        if len(spatial_size) != 3:
            raise DataError.of("patch_size", str(list(spatial_size)), "three numbers: depth, rows and columns")
        planes = [(a, b) for a, b in PLANES if spatial_size[a] == spatial_size[b]]
        super().__init__(
            [
                *(RandFlipd(keys, prob=flip_prob, spatial_axis=axis) for axis in range(3)),
                *(RandRotate90d(keys, prob=rotate_prob, max_k=3, spatial_axes=plane) for plane in planes),
            ]
        )

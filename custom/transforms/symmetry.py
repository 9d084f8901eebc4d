"""Flips and quarter turns of a patch: all ways in which a box can lie."""

from collections.abc import Sequence

from monai.config import KeysCollection
from monai.transforms import Compose, RandFlipd, RandRotate90d

PLANES = ((1, 2), (0, 1), (0, 2))


class RandSymmetriesd(Compose):
    """Random flips along all three axes, and random quarter turns in the planes whose sides are equal.

    Args:
        keys: of the arrays ``(C, D, H, W)``, which are all transformed alike.
        spatial_size: (D, H, W) of the patch; a turn in another plane would change its shape.
        flip_prob: probability of a flip along each axis.
        rotate_prob: probability of one to three quarter turns in each plane.
    """

    def __init__(
        self, keys: KeysCollection, *, spatial_size: Sequence[int], flip_prob: float = 0.5, rotate_prob: float = 0.75
    ) -> None:
        planes = [(a, b) for a, b in PLANES if spatial_size[a] == spatial_size[b]]
        super().__init__(
            [
                *(RandFlipd(keys, prob=flip_prob, spatial_axis=axis) for axis in range(3)),
                *(RandRotate90d(keys, prob=rotate_prob, max_k=3, spatial_axes=plane) for plane in planes),
            ]
        )

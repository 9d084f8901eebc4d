"""Flips and quarter turns of patches."""

from collections.abc import Sequence
from typing import Any

import torch
from monai.config import KeysCollection

from ..errors import DataError
from .batch import RandItemTransform

PLANES = ((1, 2), (0, 1), (0, 2))


class RandSymmetriesd(RandItemTransform):
    """Random flips along all three axes, and random quarter turns in planes with equal sides.

    Example: ``RandSymmetriesd(["image", "label"], spatial_size=(72, 136, 136))``

    Args:
        keys: arrays ``(C, D, H, W)``, all transformed alike.
        spatial_size: (D, H, W) of the patch, which determines the planes of the turns.
        rotate_prob: probability of one to three quarter turns in each plane.

    Raises:
        DataError: ``spatial_size`` is not three numbers.
    """

    def __init__(
        self, keys: KeysCollection, *, spatial_size: Sequence[int], flip_prob: float = 0.5, rotate_prob: float = 0.75
    ) -> None:
        super().__init__(keys, prob=1.0)
        if len(spatial_size) != 3:
            raise DataError.of("patch_size", str(list(spatial_size)), "three numbers: depth, rows and columns")
        self.planes = [(a, b) for a, b in PLANES if spatial_size[a] == spatial_size[b]]
        self.flip_prob, self.rotate_prob = flip_prob, rotate_prob

    def randomize(self, data: Any = None) -> tuple[list[int], list[int]]:
        super().randomize(None)
        flips = [axis for axis in range(3) if self.R.rand() < self.flip_prob]
        turns = [int(self.R.randint(1, 4)) if self.R.rand() < self.rotate_prob else 0 for _ in self.planes]
        return flips, turns

    def changed_item(self, item: torch.Tensor, parameters: tuple[list[int], list[int]]) -> torch.Tensor:
        flips, turns = parameters
        item = item.flip([1 + axis for axis in flips]) if flips else item
        for (a, b), turn in zip(self.planes, turns, strict=True):
            item = item.rot90(turn, (1 + a, 1 + b)) if turn else item
        return item

"""Test-time augmentation: the views of an image whose predictions are averaged."""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import torch

from ..errors import DataError

FLIPS = {"depth": -3, "vertical": -2, "horizontal": -1}
"""Axis that is reversed: the first of a volume, rows (up and down), columns (left and right)."""
ROTATE90 = "rotate90"


class View(NamedTuple):
    """One view of an image: flipped axes, then quarter turns in the plane of the last two axes."""

    flips: tuple[int, ...] = ()
    turns: int = 0

    def of(self, image: torch.Tensor) -> torch.Tensor:
        """Transform an image ``(..., H, W)`` to this view."""
        return torch.rot90(image.flip(self.flips), self.turns, (-2, -1)) if self.turns else image.flip(self.flips)

    def back(self, prediction: torch.Tensor) -> torch.Tensor:
        """Transform the prediction for this view back."""
        turned = torch.rot90(prediction, -self.turns, (-2, -1)) if self.turns else prediction
        return turned.flip(self.flips)


def views(tta: Sequence[str], known: Sequence[str] = (*FLIPS, ROTATE90)) -> list[View]:
    """Return the identity and all combinations of the named flips and quarter turns.

    Args:
        tta: any of ``"depth"``, ``"vertical"`` and ``"horizontal"`` (flips) and ``"rotate90"`` (quarter turns in the
            plane of rows and columns).
        known: the allowed names.

    Raises:
        DataError: another name, or a string instead of a list.
    """
    if isinstance(tta, str) or not set(tta) <= set(known):
        raise DataError.of("tta", repr(tta), f"a list of any of {', '.join(known)}")
    flips = {FLIPS[name] for name in tta if name != ROTATE90}
    if ROTATE90 in tta and -2 in flips:  # flipped rows are flipped columns turned by 180 degrees
        flips = flips - {-2} | {-1}
    turns = range(4) if ROTATE90 in tta else (0,)
    return [
        View(axes, turn)
        for turn in turns
        for count in range(len(flips) + 1)
        for axes in combinations(sorted(flips), count)
    ]

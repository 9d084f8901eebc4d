"""Test-time augmentation: the views of an image whose predictions are averaged."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import torch

from ..errors import DataError
from ..ops.warp import rotation_matrix, sample_linear, warp_coordinates

FLIPS = {"depth": -3, "vertical": -2, "horizontal": -1}
"""Axis that is reversed: the first of a volume, rows (up and down), columns (left and right)."""
ROTATE90 = "rotate90"
ROTATE15 = "rotate15"
ANGLE = 15.0
"""Degrees. Larger rotations show networks what they were not trained on."""


class View(NamedTuple):
    """One view of an image: flipped axes, then quarter turns and a rotation in the plane of the last two axes."""

    flips: tuple[int, ...] = ()
    turns: int = 0
    angle: float = 0.0

    def of(self, image: torch.Tensor) -> torch.Tensor:
        """Transform an image ``(n, C, ..., H, W)`` to this view; outside, its border is repeated."""
        turned = torch.rot90(image.flip(self.flips), self.turns, (-2, -1)) if self.turns else image.flip(self.flips)
        return _rotated(turned, self.angle) if self.angle else turned

    def back(self, prediction: torch.Tensor) -> torch.Tensor:
        prediction = _rotated(prediction, -self.angle) if self.angle else prediction
        turned = torch.rot90(prediction, -self.turns, (-2, -1)) if self.turns else prediction
        return turned.flip(self.flips)

    def shows(self, prediction: torch.Tensor) -> torch.Tensor:
        """Return (H, W), 1 where the view shows a prediction ``(..., H, W)`` and 0 where a rotation has cut it off."""
        size = prediction.shape[-2:]
        upright = size[::-1] if self.turns % 2 else size
        places = _source(upright, -self.angle)[0]
        inside = (places >= 0) & (places <= torch.tensor(upright).view(2, 1, 1) - 1)
        # As a volume of one plane, so that a flip along the first axis has one.
        shown = self._replace(angle=0.0).back(inside.all(dim=0)[None].float())[0]
        return shown.to(prediction.device, non_blocking=True)


class ViewMean:
    """Mean of the predictions of views, each counted where it shows the voxel; the first must not be rotated.

    Example: ``mean = ViewMean(); mean.add(view, view.back(prediction)); mean.result()``
    """

    def __init__(self) -> None:
        self.count: float | torch.Tensor = 0
        self.total = None

    def add(self, view: View, prediction: torch.Tensor) -> None:
        """Add a prediction ``(..., H, W)`` that was transformed back. The first tensor is modified by later calls."""
        shown = view.shows(prediction) if view.angle else 1
        self.count = self.count + shown
        prediction = prediction * shown if view.angle else prediction
        self.total = prediction if self.total is None else self.total.add_(prediction)

    def result(self) -> torch.Tensor:
        return self.total if type(self.count) is int and self.count == 1 else self.total.div_(self.count)


def mean_over_views(
    views: Sequence[View], predict: Callable[[torch.Tensor], torch.Tensor], image: torch.Tensor
) -> torch.Tensor:
    """Return the mean of ``predict`` over the views of an image ``(n, C, ..., H, W)``."""
    mean = ViewMean()
    for view in views:
        mean.add(view, view.back(predict(view.of(image))))
    return mean.result()


def _rotated(image: torch.Tensor, angle: float) -> torch.Tensor:
    """Rotate ``(n, C, ..., H, W)`` in the plane of the last two axes, with linear interpolation."""
    slices = image.flatten(1, -3)
    places = _source(image.shape[-2:], angle).to(image.device, non_blocking=True).expand(len(image), -1, -1, -1)
    return sample_linear(slices, places).reshape(image.shape).to(image.dtype)


@lru_cache(8)
def _source(size: Sequence[int], angle: float) -> torch.Tensor:
    """(1, 2, H, W) source of each pixel of an image rotated about its centre by ``angle`` degrees."""
    return warp_coordinates(size, torch.tensor([rotation_matrix([math.radians(angle)])]))


def views(tta: Sequence[str], known: Sequence[str] = (*FLIPS, ROTATE90, ROTATE15)) -> list[View]:
    """Return the identity and all combinations of the named flips, quarter turns and rotations.

    Args:
        tta: any of ``"depth"``, ``"vertical"`` and ``"horizontal"`` (flips), and in the plane of rows and columns
            ``"rotate90"`` (quarter turns) and ``"rotate15"`` (by 15 degrees either way).

    Raises:
        DataError: another name, or a string instead of a list.
    """
    if isinstance(tta, str) or not set(tta) <= set(known):
        raise DataError.of("tta", repr(tta), f"a list of any of {', '.join(known)}")
    flips = {FLIPS[name] for name in tta if name in FLIPS}
    if ROTATE90 in tta and -2 in flips:  # flipped rows are flipped columns turned by 180 degrees
        flips = flips - {-2} | {-1}
    turns = range(4) if ROTATE90 in tta else (0,)
    angles = (0.0, ANGLE, -ANGLE) if ROTATE15 in tta else (0.0,)
    return [
        View(axes, turn, angle)
        for angle in angles
        for turn in turns
        for count in range(len(flips) + 1)
        for axes in combinations(sorted(flips), count)
    ]

"""Betti matching: topological features that the prediction has too many, or has at the wrong values."""

import warnings
from collections.abc import Sequence

import numpy as np
import torch

from ..ops.betti import Bars, BettiUnavailableError, betti_extension, match_betti
from ..ops.target_layout import IGNORE_LABEL
from .masked import MaskedLoss, surface_probability

LEVELS = 32
"""The matching sees probabilities rounded to this many levels: bars shorter than a level, which hardly weigh in the
loss, are most of the bars and of the time."""

CANDIDATES = 4
"""Positions drawn for a crop, of which the one with the most valid voxels is taken."""


class BettiMatchingLoss(MaskedLoss):
    """Betti matching loss (Stucki et al., ICML 2023, arXiv 2211.15272; in 3-D arXiv 2407.04683) on one random crop.

    With birth b and death d of each feature (component, tunnel, cavity) in the filtration of ``1 - p``, and primes for
    its partner in the label: the sum of ``(b - b')^2 + (d - d')^2`` over the matched features and of ``(b - d)^2 / 2``
    over those of either side without a partner. It is divided by 1 plus the sum of ``(b - d)^2 / 2`` over all features
    of both, held constant in backward: the published loss runs into the hundreds at the start of a training and to
    hundredths at its end, this one stays about below 1 and its gradient on the scale of the other losses'. Prediction
    and label are 0 where the label is ignored, as in the competition's score.

    The matching runs on the CPU, 0.1 to 1 s for 48^3 voxels: give it to :class:`~custom.losses.CompoundLoss` with an
    interval. Crop k of a run is drawn from (seed, k) alone; the count of crops is in the state dict.

    Where the compiled extension is missing, a warning says how to install it and ``available`` is False, for the
    compound loss to leave the term out.

    Args:
        crop_size: edge of the crop in voxels, or one for each axis; cut to the patch.
        seed: of the crops' positions.
        ignore_index: label value of the voxels that are left out.

    Raises:
        BettiUnavailableError: when called although the extension is missing.
    """

    def __init__(self, *, crop_size: int | Sequence[int] = 48, seed: int = 0, ignore_index: int = IGNORE_LABEL) -> None:
        super().__init__(ignore_index=ignore_index)
        self.crop_size = crop_size
        self.seed = seed
        self.calls = 0
        self.available = _available()

    def compute(
        self, logits: torch.Tensor, label: torch.Tensor, valid: torch.Tensor, *extras: torch.Tensor
    ) -> torch.Tensor:
        crop = self._draw(valid)
        logits, label, valid = logits[crop], label[crop], valid[crop]
        prediction = 1 - surface_probability(logits) * valid
        truth = 1 - ((label == 1) & valid).to(logits.dtype)
        error, persistence = betti_matching_error(prediction[0, 0], truth[0, 0])
        return error / (1 + persistence.detach())

    def _draw(self, valid: torch.Tensor) -> tuple[slice, ...]:
        """The crop: one item, all channels, and its part of D, H and W."""
        random = np.random.default_rng((self.seed, self.calls))
        self.calls += 1
        items, *space = valid.shape[:1] + valid.shape[2:]
        size = np.minimum(self.crop_size, space)
        crops = []
        for _ in range(CANDIDATES):
            item, *start = random.integers([items, *(space - size + 1)])
            crops.append((slice(item, item + 1), slice(None), *map(slice, start, start + size)))
        counts = torch.stack([valid[crop].sum() for crop in crops])
        return crops[int(counts.argmax())]

    def get_extra_state(self) -> dict[str, int]:
        return {"calls": self.calls}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.calls = state["calls"]


def betti_matching_error(prediction: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How far the features of two volumes ``(D, H, W)`` in [0, 1] are apart, and how much there is of them.

    Returns:
        the sum over matched and unmatched features, and that of ``(birth - death)^2 / 2`` over all features.
    """
    rounded = (torch.nan_to_num(prediction.detach()) * LEVELS).round() / LEVELS
    matching = match_betti(rounded.cpu().numpy(), label.cpu().numpy())
    error = persistence = 0 * prediction.sum()  # a NaN must not be lost because it is no feature
    for bars, partners in zip(matching.prediction_matched, matching.label_matched, strict=True):
        ours, theirs = _values(prediction, bars), _values(label, partners)
        error = error + (ours - theirs).square().sum()
        persistence = persistence + _persistence(ours) + _persistence(theirs)
    for volume, unmatched in ((prediction, matching.prediction_unmatched), (label, matching.label_unmatched)):
        for bars in unmatched:
            alone = _persistence(_values(volume, bars))
            error, persistence = error + alone, persistence + alone
    return error, persistence


def _persistence(values: torch.Tensor) -> torch.Tensor:
    """Squared distance of the bars from those that die at birth."""
    return (values[0] - values[1]).square().sum() / 2


def _values(volume: torch.Tensor, bars: Bars) -> torch.Tensor:
    """Birth and death value of each bar, ``(2, N)``."""
    where = torch.from_numpy(np.stack([bars.birth, bars.death])).to(volume.device)
    return volume[where[..., 0], where[..., 1], where[..., 2]]


def _available() -> bool:
    try:
        betti_extension()
    except BettiUnavailableError as error:
        warnings.warn(f"the Betti matching loss is left out: {error}", stacklevel=3)
        return False
    return True

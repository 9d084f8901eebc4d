"""Betti matching loss: penalises wrong topological features."""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..ops.betti import Bars, BettiUnavailableError, betti_extension, match_betti
from .masked import MaskedLoss, surface_probability

LEVELS = 32
"""Probabilities are rounded to this many levels for the matching: features shorter than a level hardly affect the
loss but would take most of the time."""

CANDIDATES = 4
"""Number of random positions, of which the one with the most valid voxels is used."""


class BettiMatchingLoss(MaskedLoss):
    """Betti matching loss (Stucki et al., ICML 2023, arXiv 2211.15272; in 3-D arXiv 2407.04683) on one random crop.

    With birth b and death d of each feature (component, tunnel, cavity) in the filtration of ``1 - p``, and primes for
    its partner in the label: the sum of ``(b - b')^2 + (d - d')^2`` over matched features and of ``(b - d)^2 / 2`` over
    unmatched features of either side. It is divided by 1 plus the sum of ``(b - d)^2 / 2`` over all features of both,
    as a constant in the backward pass: the published loss ranges from hundreds to hundredths during training, this one
    stays below about 1, comparable to other losses. Prediction and label are set to 0 in the ignored region, as in the
    competition's score.

    The matching runs on the CPU, 0.1 to 1 s for 48^3 voxels: use it in :class:`~custom.losses.CompoundLoss` with an
    interval. Crop k of a run depends on (seed, k); the number of crops is in the state dict.

    If the compiled extension is missing, a warning says how to install it, and ``available`` is False, so that the
    compound loss leaves the term out.

    Example: ``{"_target_": "custom.losses.BettiMatchingLoss", "crop_size": 48, "seed": "@seed"}``

    Args:
        crop_size: edge of the crop in voxels, or one for each axis; at most that of the patch.
        seed: for the positions of the crops.

    Raises:
        BettiUnavailableError: when called without the extension.
    """

    def __init__(self, *, crop_size: int | Sequence[int] = 48, seed: int = 0) -> None:
        super().__init__()
        self.crop_size = crop_size
        self.seed = seed
        self.calls = 0
        self.available = _available()

    def compute(self, logits: Tensor, label: Tensor, valid: Tensor, *extras: Tensor) -> Tensor:
        crop = self._random_crop(valid)
        logits, label, valid = logits[crop], label[crop], valid[crop]
        prediction = 1 - surface_probability(logits) * valid
        truth = 1 - ((label == 1) & valid).to(logits.dtype)
        error, persistence = betti_matching_error(prediction[0, 0], truth[0, 0])
        return error / (1 + persistence.detach())

    def _random_crop(self, valid: Tensor) -> tuple[slice, ...]:
        """Draw a crop: one item, all channels, and a range of D, H and W."""
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


def betti_matching_error(prediction: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Compare the topological features of two volumes ``(D, H, W)`` in [0, 1].

    Returns:
        the sum over matched and unmatched features, and that of ``(birth - death)^2 / 2`` over all features.
    """
    rounded = (torch.nan_to_num(prediction.detach()) * LEVELS).round() / LEVELS
    matching = match_betti(rounded.cpu().numpy(), label.cpu().numpy())
    error = persistence = 0 * prediction.sum()  # keeps a NaN, which is no feature
    for bars, partners in zip(matching.prediction_matched, matching.label_matched, strict=True):
        ours, theirs = _values(prediction, bars), _values(label, partners)
        error = error + (ours - theirs).square().sum()
        persistence = persistence + _persistence(ours) + _persistence(theirs)
    for volume, unmatched in ((prediction, matching.prediction_unmatched), (label, matching.label_unmatched)):
        for bars in unmatched:
            alone = _persistence(_values(volume, bars))
            error, persistence = error + alone, persistence + alone
    return error, persistence


def _persistence(values: Tensor) -> Tensor:
    return (values[0] - values[1]).square().sum() / 2


def _values(volume: Tensor, bars: Bars) -> Tensor:
    where = torch.from_numpy(np.stack([bars.birth, bars.death])).to(volume.device, non_blocking=True)
    return volume[where[..., 0], where[..., 1], where[..., 2]]


def _available() -> bool:
    try:
        betti_extension()
    except BettiUnavailableError as error:
        warnings.warn(f"the Betti matching loss is left out: {error}", stacklevel=3)
        return False
    return True

"""The official Vesuvius score as MONAI metrics; the definition is in :mod:`.vesuvius_score`."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from monai.metrics import CumulativeIterationMetric
from monai.utils import MetricReduction

from .vesuvius_folders import score_folders
from .vesuvius_score import PARTS, check_parts, column_names, score_volume, topo_score, voi_score

__all__ = ["VesuviusScore", "VesuviusScorePart", "score_folders", "score_volume", "topo_score", "voi_score"]


class VesuviusScore(CumulativeIterationMetric):
    """The competition's score as a MONAI metric: ``aggregate()`` is the mean over volumes.

    Predictions and labels are (B, 1, D, H, W) or lists of (1, D, H, W), of any integer type: predictions 0 or 1, labels
    0, 1, or 2 for ignored. Each volume adds a row of :attr:`columns` to the buffer; :class:`VesuviusScorePart` shows
    one column as a metric of its own without computing anything again.

    Args:
        parts: "toposcore", "surface_dice", "voi_score". Leaving out the first makes a cheap validation (about a second
            for 320^3), whose score is the mean of the other two.
        processes: octants matched at a time; ``None``: as many as cores and free memory allow.

    Raises:
        ValueError: a part is unknown.
        BettiUnavailableError: "toposcore" where the compiled Betti matching is missing.
    """

    def __init__(self, *, parts: Sequence[str] = PARTS, processes: int | None = None) -> None:
        super().__init__()
        check_parts(parts)  # now rather than after an epoch
        self.parts = tuple(parts)
        self.processes = processes
        self.columns = column_names(parts)

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        if y_pred.shape != y.shape or y_pred.ndim != 5 or y_pred.shape[1] != 1:
            raise ValueError(f"expected (B, 1, D, H, W) twice, got {tuple(y_pred.shape)} and {tuple(y.shape)}")
        rows = []
        for prediction, label in zip(y_pred[:, 0].cpu().numpy(), y[:, 0].cpu().numpy(), strict=True):
            scores = score_volume(prediction, label, parts=self.parts, processes=self.processes)
            rows.append([scores[name] for name in self.columns])
        return torch.tensor(rows, dtype=torch.float64, device=y_pred.device)

    def aggregate(self, reduction: MetricReduction | str | None = None) -> torch.Tensor:
        """Mean score of the volumes seen since the last reset; scalar, NaN if there were none."""
        return self.mean_of("score")

    def mean_of(self, column: str) -> torch.Tensor:
        """Mean of one of :attr:`columns` over the volumes where it is defined."""
        return torch.nanmean(self.column(column))

    def column(self, column: str) -> torch.Tensor:
        """(N,) values of one of :attr:`columns`, a volume each."""
        buffer = self.get_buffer()
        if not isinstance(buffer, torch.Tensor):
            return torch.full((1,), math.nan)
        return buffer[:, self.columns.index(column)]


class VesuviusScorePart(CumulativeIterationMetric):
    """One column of a :class:`VesuviusScore`, as a metric that takes its values from there.

    In a config: ``{"_target_": "IgniteMetricHandler", "metric_fn": {"_target_": "custom.metrics.VesuviusScorePart",
    "score": "@metric", "column": "voi_score"}, ...}`` among ``additional_metrics``, where ``metric`` is the
    :class:`VesuviusScore` that the key metric uses.

    Args:
        score: the metric that computes.
        column: one of ``score.columns``.
    """

    def __init__(self, *, score: VesuviusScore, column: str) -> None:
        super().__init__()
        if column not in score.columns:
            raise ValueError(f"column must be one of {', '.join(score.columns)}; got {column}")
        self.score = score
        self.name = column

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the score itself is called with the same volumes."""

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
        raise NotImplementedError("values come from the VesuviusScore")

    def reset(self) -> None:
        """Nothing: the score is reset by its own handler."""

    def get_buffer(self) -> torch.Tensor:
        """(N, 1) values, a volume each."""
        return self.score.column(self.name)[:, None]

    def aggregate(self, reduction: MetricReduction | str | None = None) -> torch.Tensor:
        """Mean over the volumes where the column is defined."""
        return self.score.mean_of(self.name)

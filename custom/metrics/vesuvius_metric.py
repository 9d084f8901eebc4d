"""The official Vesuvius score as a MONAI metric; it is defined in :mod:`.vesuvius_score`."""

from collections.abc import Sequence

import torch

from .case_metric import CaseMetric
from .score_folders import score_folders
from .vesuvius_score import PARTS, check_parts, column_names, score_volume, topo_score, voi_score

__all__ = ["VesuviusScore", "score_folders", "score_volume", "topo_score", "voi_score"]


class VesuviusScore(CaseMetric):
    """The Vesuvius competition's score as a MONAI metric; ``aggregate()`` is the mean over volumes.

    Predictions are 0 or 1, labels 0, 1, or 2 for ignored, of any integer type. See :func:`.vesuvius_score.score_volume`
    for the :attr:`columns`.

    Example: ``{"_target_": "custom.metrics.VesuviusScore", "parts": ["surface_dice", "voi_score"]}``

    Args:
        parts: "toposcore", "surface_dice", "voi_score". Without the first, validation is fast (about a second for
            320^3), and the score is the weighted mean of the other two.
        processes: octants matched in parallel; None: as many as cores and free memory allow.

    Raises:
        ValueError: a part is unknown.
        BettiUnavailableError: "toposcore" without the compiled Betti matching.
    """

    def __init__(self, *, parts: Sequence[str] = PARTS, processes: int | None = None) -> None:
        super().__init__()
        check_parts(parts)  # raises before training
        self.parts = tuple(parts)
        self.processes = processes
        self.columns = tuple(column_names(parts))

    def measure(self, prediction: torch.Tensor, label: torch.Tensor, name: str) -> dict[str, float]:
        if prediction.shape != label.shape or prediction.ndim != 4 or prediction.shape[0] != 1:
            raise ValueError(f"expected (1, D, H, W) twice, got {tuple(prediction.shape)} and {tuple(label.shape)}")
        arrays = (torch.as_tensor(tensor[0]).cpu().numpy() for tensor in (prediction, label))
        return score_volume(*arrays, parts=self.parts, processes=self.processes)

    def aggregate(self) -> torch.Tensor:
        return torch.tensor(self.means().get("score", 0.0))

"""Ignite handlers for training."""

from .case_metrics import CaseMetrics
from .ema import EMA
from .gradients import GradientGuard
from .history import History
from .panels import Panels
from .progress import ProgressBar
from .schedule import StepSchedule
from .seed import SeedSteps
from .weights import LoadWeights

__all__ = [
    "CaseMetrics",
    "EMA",
    "GradientGuard",
    "History",
    "LoadWeights",
    "Panels",
    "ProgressBar",
    "SeedSteps",
    "StepSchedule",
]

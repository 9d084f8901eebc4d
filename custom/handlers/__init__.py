"""Ignite handlers for training."""

from .budget import Budget
from .case_metrics import CaseMetrics
from .checkpoints import Checkpoints
from .ema import EMA
from .gradients import GradientGuard
from .history import History
from .panels import Panels
from .progress import ProgressBar
from .saving import SaveBestWeights, SaveFinalWeights
from .schedule import StepSchedule
from .seed import SeedSteps
from .stream import FollowTrainer
from .weights import LoadWeights

__all__ = [
    "EMA",
    "Budget",
    "CaseMetrics",  # the founder's: keep this line when the list is written anew
    "Checkpoints",
    "FollowTrainer",
    "GradientGuard",
    "History",
    "LoadWeights",
    "Panels",
    "ProgressBar",
    "SaveBestWeights",
    "SaveFinalWeights",
    "SeedSteps",
    "StepSchedule",
]

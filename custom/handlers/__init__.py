"""Ignite handlers for training."""

from .attach import Attach
from .budget import Budget
from .case_metrics import CaseMetrics
from .checkpoints import Checkpoints
from .early_stop import EarlyStop
from .ema import EMA
from .gradients import GradientGuard
from .history import History
from .mirror import Mirror
from .panels import Panels
from .progress import ProgressBar
from .resources import Resources
from .run_record import RunRecord
from .saving import SaveBestWeights, SaveFinalWeights
from .schedule import StepSchedule
from .seed import SeedSteps
from .tensorboard import TensorBoard
from .tracking import support_mlflow
from .weights import LoadWeights

__all__ = [
    "EMA",
    "Attach",
    "Budget",
    "CaseMetrics",
    "Checkpoints",
    "EarlyStop",
    "GradientGuard",
    "History",
    "LoadWeights",
    "Mirror",
    "Panels",
    "ProgressBar",
    "Resources",
    "RunRecord",
    "SaveBestWeights",
    "SaveFinalWeights",
    "SeedSteps",
    "StepSchedule",
    "TensorBoard",
]

support_mlflow()

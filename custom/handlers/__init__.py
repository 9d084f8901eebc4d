"""Ignite handlers for training and evaluation."""

from .budget import Budget
from .case_metrics import CaseMetrics
from .checkpoints import Checkpoints
from .early_stop import EarlyStop
from .ema import EMA
from .evaluation import EvaluationHandlers
from .gradients import GradientGuard
from .history import History
from .panels import Panels
from .per_case import PerCaseUpdate
from .progress import ProgressBar
from .remote_copy import RemoteCopy
from .resources import Resources
from .run_record import RunRecord
from .saving import SaveBestWeights, SaveFinalWeights
from .schedule import StepSchedule
from .seed import SeedSteps
from .tensorboard import TensorBoard
from .tracking import support_mlflow
from .training import RunHandlers, StepHandlers
from .weights import LoadWeights

__all__ = [
    "EMA",
    "Budget",
    "CaseMetrics",
    "Checkpoints",
    "EarlyStop",
    "EvaluationHandlers",
    "GradientGuard",
    "History",
    "LoadWeights",
    "Panels",
    "PerCaseUpdate",
    "ProgressBar",
    "RemoteCopy",
    "Resources",
    "RunHandlers",
    "RunRecord",
    "SaveBestWeights",
    "SaveFinalWeights",
    "SeedSteps",
    "StepHandlers",
    "StepSchedule",
    "TensorBoard",
]

support_mlflow()

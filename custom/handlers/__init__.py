"""Ignite handlers for training and evaluation."""

from .budget import Budget
from .case_metrics import CaseMetrics
from .checkpoints import Checkpoints
from .early_stop import EarlyStop
from .ema import EMA
from .evaluation import EvaluationHandlers
from .gradients import GradientGuard
from .history import History
from .load_weights import LoadWeights
from .panels import Panels
from .per_case import PerCaseUpdate
from .progress import ProgressBar
from .remote_copy import RemoteCopy
from .resources import Resources
from .run_record import RunRecord
from .save_weights import SaveBestWeights, SaveFinalWeights
from .seed import SeedSteps
from .step_schedule import StepSchedule
from .tensorboard import TensorBoard
from .tracking import support_mlflow
from .training import RunHandlers, StepHandlers

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

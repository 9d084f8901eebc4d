"""Ignite handlers for training."""

from .history import History
from .panels import Panels
from .progress import ProgressBar
from .weights import LoadWeights

__all__ = ["History", "LoadWeights", "Panels", "ProgressBar"]

"""Ignite handlers for training."""

from .history import History
from .panels import Panels
from .progress import ProgressBar

__all__ = ["History", "Panels", "ProgressBar"]

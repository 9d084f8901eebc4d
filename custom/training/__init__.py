"""Planning a training, and its learning rate."""

from .lr_schedules import build_schedule
from .plan import Plan

__all__ = ["Plan", "build_schedule"]

"""Validation of a run's configuration, and the settings that can change its results."""

from .check import check_options
from .configuration import Configuration, differences
from .effect import settings_with_effect, without_effect

__all__ = ["Configuration", "check_options", "differences", "settings_with_effect", "without_effect"]

"""What a run is configured to do: options that do nothing are refused, and those that decide results are known."""

from .check import check_options
from .configuration import Configuration, differences
from .effect import without_effect

__all__ = ["Configuration", "check_options", "differences", "without_effect"]

"""Refuse what a configuration is given but does not use."""

from .check import check_options

__all__ = ["check_options"]

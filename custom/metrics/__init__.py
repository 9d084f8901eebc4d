"""Scores per volume."""

from .liver import LiverMetrics
from .vesuvius import VesuviusScore

__all__ = ["LiverMetrics", "VesuviusScore"]

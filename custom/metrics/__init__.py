"""Evaluation metrics per volume."""

from .liver import LiverMetrics
from .vesuvius_metric import VesuviusScore

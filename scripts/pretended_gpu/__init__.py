"""A pretended CUDA device, with which a machine without a GPU tests and measures what a GPU would be asked to do."""

from .device import PretendedGPU, why_not
from .record import H100, Card, Record

__all__ = ["H100", "Card", "PretendedGPU", "Record", "why_not"]

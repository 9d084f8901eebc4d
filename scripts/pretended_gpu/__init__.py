"""A pretended CUDA device, with which a machine without a GPU tests and measures what a GPU would be asked to do."""

from .device import PretendedGPU, why_not
from .record import A100, H100, T4, Card, Record

__all__ = ["A100", "H100", "T4", "Card", "PretendedGPU", "Record", "why_not"]

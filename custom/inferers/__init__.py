"""Inference on volumes that are larger than the network's input, and autocast."""

from .autocast import AutocastInferer
from .slice_volume import SliceVolumeInferer
from .sliding_window import SlidingWindow

__all__ = ["AutocastInferer", "SliceVolumeInferer", "SlidingWindow"]

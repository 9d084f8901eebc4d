"""Inference on volumes that are larger than the network's input, and autocast."""

from .autocast import AutocastInferer
from .nnunet import NnunetInferer
from .slice_volume import SliceVolumeInferer
from .sliding_window import SlidingWindow

__all__ = ["AutocastInferer", "NnunetInferer", "SliceVolumeInferer", "SlidingWindow"]

"""How a network sees a volume that is larger than its input."""

from .slices import SliceVolumeInferer
from .sliding_window import SlidingWindow

__all__ = ["SliceVolumeInferer", "SlidingWindow"]

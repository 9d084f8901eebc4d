"""How a network sees a volume that is larger than its input."""

from .autocast import AutocastInferer
from .slice_volume import SliceVolumeInferer
from .sliding_window import SlidingWindow

__all__ = ["AutocastInferer", "SliceVolumeInferer", "SlidingWindow"]

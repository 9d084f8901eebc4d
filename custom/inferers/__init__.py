"""How a network sees a volume that is larger than its input."""

from .slices import SliceVolumeInferer

__all__ = ["SliceVolumeInferer"]

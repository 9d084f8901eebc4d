"""From files on disk or in a bucket to batches."""

from .cache import VolumeCache
from .cases import find_cases, find_images, fold_cases
from .datasets import PatchDataset, SliceDataset, VolumeDataset
from .loader import StreamLoader, VolumeLoader
from .volumes import VolumeReader, read_volume
from .writing import write_volume

__all__ = [
    "PatchDataset",
    "SliceDataset",
    "StreamLoader",
    "VolumeCache",
    "VolumeDataset",
    "VolumeLoader",
    "VolumeReader",
    "find_cases",
    "find_images",
    "fold_cases",
    "read_volume",
    "write_volume",
]

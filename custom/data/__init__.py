"""Reading, caching, sampling and writing volumes."""

from .cache import VolumeCache
from .cases import find_cases, find_images, fold_cases
from .datasets import PatchDataset, SliceDataset, VolumeDataset
from .inference import InferenceDataset
from .loader import StreamLoader, VolumeLoader
from .predictions import PredictionRecord
from .volumes import VolumeReader, read_volume
from .writing import write_volume

__all__ = [
    "InferenceDataset",
    "PatchDataset",
    "PredictionRecord",
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

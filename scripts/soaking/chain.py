"""A bundle's augmentation, checked after each transform."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from monai.transforms import RandGaussianNoised, ResizeWithPadOrCropd, ScaleIntensityRanged
from torch.utils.data import Dataset
from tqdm import tqdm

from custom.ops.target_layout import TARGET_CHANNELS

LABELS = torch.tensor([0.0, 1.0, 2.0])
MONAIS_ROUNDING = 1e-5
MOST = 20
"""Number of faults after which the test stops."""


class FaultError(Exception):
    """A transform returned something unsuitable for training."""


def run_chain(dataset: Dataset, items: int, shape: Sequence[int], name: str) -> list[str]:
    """Create items of a training dataset, checking each after every transform.

    Args:
        dataset: as configured, with its transform.
        items: number of items; item k depends on k alone.
        shape: of an item, without channels.
        name: for the progress bar.

    Returns:
        the faults, one line each.
    """
    dataset.transform = _Checked(dataset.transform)
    faults = []
    for k in tqdm(range(items), desc=f"items of {name}", unit="item", mininterval=5):
        try:
            item = dataset[k]
            if list(item["image"].shape[1:]) != list(shape) or item["label"].shape[1:] != item["image"].shape[1:]:
                raise FaultError(f"image {tuple(item['image'].shape)}, label {tuple(item['label'].shape)}")
        except Exception as error:  # any error would have ended a training
            faults.append(f"item {k}: {type(error).__name__}: {error}")
            if len(faults) == MOST:
                break
    return faults


class _Checked:
    """A chain of transforms that checks the result of each."""

    def __init__(self, chain: Any) -> None:
        self.chain = chain
        self.set_random_state = chain.set_random_state

    def __call__(self, item: Mapping[str, Any]) -> Mapping[str, Any]:
        low, high = _ends(item)
        for transform in self.chain.flatten().transforms:
            item = transform(item)
            low, high = _expected(transform, low, high)
            name = f"{type(transform).__name__} of {item['id']}"
            _check_image(item, low, high, name)
            _check_label(item["label"], name)
        return item


def _ends(item: Mapping[str, Any]) -> tuple[float, float]:
    return float(item["image"].min()), float(item["image"].max())


def _expected(transform: Callable, low: float, high: float) -> tuple[float, float]:
    """Range of values after a transform: the input's, unless the transform changes it on purpose."""
    if isinstance(transform, ScaleIntensityRanged):
        low, high = transform.scaler(torch.tensor([low, high])).tolist()
    elif isinstance(transform, ResizeWithPadOrCropd):
        low, high = min(low, 0.0), max(high, 0.0)
    elif isinstance(transform, RandGaussianNoised):
        return -torch.inf, torch.inf
    rounding = 0.0 if type(transform).__module__.startswith("custom") else MONAIS_ROUNDING
    return low - rounding, high + rounding


def _check_image(item: Mapping[str, Any], low: float, high: float, name: str) -> None:
    image = torch.as_tensor(item["image"])
    lowest, highest = _ends(item)
    if not image.isfinite().all():
        raise FaultError(f"{name}: an image that is not finite")
    if lowest < low or highest > high:
        raise FaultError(f"{name}: an image from {lowest:.9g} to {highest:.9g}, expected {low:.9g} to {high:.9g}")


def _check_label(label: Any, name: str) -> None:
    label = torch.as_tensor(label)
    if len(label) == len(TARGET_CHANNELS):
        *classes, distance = label
        if not (distance.abs() <= 1).all():
            raise FaultError(f"{name}: distances from {float(distance.min()):g} to {float(distance.max()):g}")
        label = torch.stack(classes)
    if not torch.isin(label.float(), LABELS).all():
        raise FaultError(f"{name}: label values {label.unique()[:10].tolist()}")

"""A bundle's augmentation, checked after each transform."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from monai.data import list_data_collate
from monai.transforms import ScaleIntensityRanged
from torch.utils.data import Dataset
from tqdm import tqdm

from custom.ops.target_layout import TARGET_CHANNELS
from custom.transforms import BatchCompose, RandNoised

LABELS = torch.tensor([0.0, 1.0, 2.0])
MONAIS_ROUNDING = 1e-5
MOST = 20
"""Number of faults after which the test stops."""


class FaultError(Exception):
    """A transform returned something unsuitable for training."""


def run_chain(dataset: Dataset, chain: BatchCompose, items: int, shape: Sequence[int], name: str) -> list[str]:
    """Create items of a training dataset, and check them after each transform of batches.

    Args:
        dataset: as configured, with its transform.
        chain: as configured for batches.
        items: number of items; item k depends on k alone.
        shape: of an item, without channels.
        name: for the progress bar.

    Returns:
        the faults, one line each.
    """
    faults = []
    for k in tqdm(range(items), desc=f"items of {name}", unit="item", mininterval=5):
        try:
            item = _checked(dataset[k], chain)
            if list(item["image"].shape[1:]) != list(shape) or item["label"].shape[1:] != item["image"].shape[1:]:
                raise FaultError(f"image {tuple(item['image'].shape)}, label {tuple(item['label'].shape)}")
        except Exception as error:  # any error would have ended a training
            faults.append(f"item {k}: {type(error).__name__}: {error}")
            if len(faults) == MOST:
                break
    return faults


def _checked(item: Mapping[str, Any], chain: BatchCompose) -> Mapping[str, Any]:
    """Apply the chain to a batch of one item, and check the result of each transform."""
    low, high = _ends(item)
    batch = list_data_collate([item])
    seed = batch["seed"]
    for transform in chain.transforms:
        batch = BatchCompose([transform])({**batch, "seed": seed})
        item = {key: value[0] for key, value in batch.items()}
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
    elif isinstance(transform, RandNoised):
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

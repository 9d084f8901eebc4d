"""The surface's clDice beside MONAI's.

Decides that clDice is our own. What all terms cost together: section train; what targets cost the loader: section data.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from monai.losses import SoftclDiceLoss as MonaiSoftclDiceLoss
from scipy import ndimage

from scripts.phantoms import scroll_phantom

from custom.losses import SoftClDiceLoss
from custom.ops.target_layout import surface_targets

from .measure import Row, by, interleaved, show_seconds

SHAPES = {"cpu": (1, 48, 96, 96), "cuda": (2, 72, 136, 136)}
"""Batch and patch: the defaults on a GPU, smaller ones on a CPU."""
ITERATIONS = 3
REPEATS = 7
MAX_DISTANCE = 10.0
MIB = 2**20


def run(device: str) -> list[Row]:
    """Time and memory of clDice."""
    shape = SHAPES[device.partition(":")[0]]
    logits, target = (torch.from_numpy(array).to(device) for array in example(shape))
    ours = SoftClDiceLoss(iterations=ITERATIONS)
    classes = torch.cat([target[:, :1] != 1, target[:, :1] == 1], 1).float()
    theirs = MonaiSoftclDiceLoss(iter_=ITERATIONS, softmax=True)

    works = [
        lambda: ours(logits.detach().requires_grad_(), target).backward(),
        lambda: theirs(logits.detach().requires_grad_(), classes).backward(),
    ]
    times = interleaved(works, repeats=REPEATS, device=device)
    kept = [saved_bytes(work) for work in works]

    what = f"clDice of {by([logits.shape[0], *logits.shape[2:]])}, {ITERATIONS} iterations, forward and backward"
    shown = (show_seconds(times[0]), f"{show_seconds(times[1])} (MONAI, two channels)")
    return [
        Row(what, *shown, times[1] / times[0], ">= 5"),
        Row("clDice, kept for backward", *(f"{size / MIB:.1f} MiB" for size in kept), kept[0] / kept[1], "<= 0.2"),
    ]


def example(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return logits ``(B, 2, D, H, W)`` as in mid-training, and their target ``(B, 3, D, H, W)``, float32."""
    batch, *space = shape
    random = np.random.default_rng(0)
    logits, labels = [], []
    for index in range(batch):
        label = _crop(scroll_phantom(seed=0, index=index, size=max(space))[1], space)
        noise = ndimage.gaussian_filter(random.standard_normal(space), 1)
        logit = 6 * ndimage.gaussian_filter((label == 1).astype(np.float32), 0.8) - 2 + 1.5 * noise / noise.std()
        logits.append(np.stack([-logit / 2, logit / 2]).astype(np.float32))
        labels.append(torch.from_numpy(label))
    return np.stack(logits), surface_targets(torch.stack(labels), MAX_DISTANCE).numpy()


def _crop(volume: np.ndarray, space: tuple[int, ...]) -> np.ndarray:
    return volume[tuple(slice((n - s) // 2, (n - s) // 2 + s) for n, s in zip(volume.shape, space, strict=True))]


def saved_bytes(work: Callable[[], Any], without: Iterable[torch.Tensor] = ()) -> int:
    """Return the bytes of all tensors, except some, that ``work()`` saves for backward; shared memory counts once."""
    storages: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()  # so that addresses stay unique
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        work()
    left_out = {tensor.untyped_storage().data_ptr() for tensor in without}
    return sum(storage.nbytes() for address, storage in storages.items() if address not in left_out)

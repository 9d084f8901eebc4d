"""The surface's clDice beside MONAI's, and the making of the targets.

Decides that clDice is our own, and that targets are made in the loader. What all terms cost together: section train.
"""

from collections.abc import Callable, Iterable
from statistics import median
from time import process_time
from typing import Any

import numpy as np
import torch
from monai.losses import SoftclDiceLoss as MonaiSoftclDiceLoss
from scipy import ndimage

from custom.data.phantoms import scroll_phantom
from custom.losses import SoftClDiceLoss
from custom.ops.targets import IGNORE_LABEL, surface_target
from custom.transforms import SurfaceTargetsd

from .measure import Row, by, interleaved, show_seconds

PATCH = (72, 136, 136)
SHAPES = {"cpu": (1, 48, 96, 96), "cuda": (2, *PATCH)}
"""Batch and patch: the default ones on a GPU, smaller on a CPU."""
ITERATIONS = 3
REPEATS = 7
MAX_DISTANCE = 10.0
MIB = 2**20


def run(device: str) -> list[Row]:
    """clDice against MONAI's, and the making of the targets."""
    shape = SHAPES[device.partition(":")[0]]
    logits, target = (torch.from_numpy(array).to(device) for array in example(shape))
    return [*_cldice(logits, target, device), _targets()]


def _cldice(logits: torch.Tensor, target: torch.Tensor, device: str) -> list[Row]:
    ours = SoftClDiceLoss(iterations=ITERATIONS)
    label = target[:, :1]
    classes = torch.cat([label != 1, label == 1], 1).float()
    theirs = MonaiSoftclDiceLoss(iter_=ITERATIONS, softmax=True)

    works = [_backward(ours, logits, target), _backward(theirs, logits, classes)]
    times = interleaved(works, repeats=REPEATS, device=device)
    kept = [saved_bytes(work) for work in works]

    # The same value: MONAI has no ignore label, so nothing is ignored here, and it gets the surface alone.
    known = torch.where(label == IGNORE_LABEL, 0, label)
    surface = torch.softmax(logits, 1)[:, 1:]
    difference = abs(float(ours(logits, known)) - float(MonaiSoftclDiceLoss(iter_=ITERATIONS)(surface, known)))
    what = f"clDice of {by([logits.shape[0], *logits.shape[2:]])}, {ITERATIONS} iterations, forward and backward"
    shown = (show_seconds(times[0]), f"{show_seconds(times[1])} (MONAI, two channels)")
    return [
        Row(what, *shown, times[1] / times[0], ">= 5"),
        Row("clDice, kept for backward", *(f"{size / MIB:.1f} MiB" for size in kept), kept[0] / kept[1], "<= 0.2"),
        Row("clDice, difference from MONAI's on the surface channel", f"{difference:.1e}", "0", difference, "<= 1e-06"),
    ]


def _targets() -> Row:
    label = _crop(scroll_phantom(seed=0, index=0, size=max(PATCH))[1], PATCH)
    transform, times = SurfaceTargetsd(keys="label"), []
    for _ in range(REPEATS):
        started = process_time()  # of all cores together, and whatever else the machine does
        transform({"label": label[None]})
        times.append(process_time() - started)
    what = f"targets of a patch of {by(PATCH)}, processor time"
    return Row(what, show_seconds(median(times)), "", median(times), "<= 0.15")


def example(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Logits ``(B, 2, D, H, W)`` as of a network in mid-training, and their target ``(B, 3, D, H, W)``, float32."""
    batch, *space = shape
    random = np.random.default_rng(0)
    logits, targets = [], []
    for index in range(batch):
        label = _crop(scroll_phantom(seed=0, index=index, size=max(space))[1], space)
        noise = ndimage.gaussian_filter(random.standard_normal(space), 1)
        logit = 6 * ndimage.gaussian_filter((label == 1).astype(np.float32), 0.8) - 2 + 1.5 * noise / noise.std()
        logits.append(np.stack([-logit / 2, logit / 2]).astype(np.float32))
        targets.append(surface_target(label, MAX_DISTANCE))
    return np.stack(logits), np.stack(targets)


def _crop(volume: np.ndarray, space: tuple[int, ...]) -> np.ndarray:
    return volume[tuple(slice((n - s) // 2, (n - s) // 2 + s) for n, s in zip(volume.shape, space, strict=True))]


def _backward(loss: torch.nn.Module, logits: torch.Tensor, target: torch.Tensor) -> Callable[[], None]:
    def work() -> None:
        loss(logits.detach().requires_grad_(), target).backward()

    return work


def saved_bytes(work: Callable[[], Any], without: Iterable[torch.Tensor] = ()) -> int:
    """Bytes of all tensors but some that ``work()`` keeps for its backward pass; shared memory counts once."""
    storages: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()  # held, so no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        work()
    left_out = {tensor.untyped_storage().data_ptr() for tensor in without}
    return sum(storage.nbytes() for address, storage in storages.items() if address not in left_out)

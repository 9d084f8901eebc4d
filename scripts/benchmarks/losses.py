"""The surface's loss terms: time and memory beside MONAI's clDice and beside Dice + CE."""

import weakref
from collections.abc import Callable
from statistics import median
from time import process_time
from typing import Any

import numpy as np
import torch
from monai.losses import SoftclDiceLoss as MonaiSoftclDiceLoss
from scipy import ndimage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from custom.data.phantoms import scroll_phantom
from custom.losses import (
    BettiMatchingLoss,
    MaskedDiceCELoss,
    MedialRecallLoss,
    SoftClDiceLoss,
    SurfaceDistanceLoss,
)
from custom.ops.targets import IGNORE_LABEL, surface_target
from custom.transforms import SurfaceTargetsd

from .measure import Row, interleaved, not_measured, once, seconds, show_seconds

PATCH = (72, 136, 136)
SHAPES = {"cpu": (1, 48, 96, 96), "cuda": (2, *PATCH)}
"""Batch and patch: the default ones on a GPU, smaller on a CPU."""
ITERATIONS = 3
REPEATS = 7
MAX_DISTANCE = 10.0
MIB = 2**20


def run(device: str) -> list[Row]:
    """clDice against MONAI's, each term against Dice + CE, and the making of the targets."""
    shape = SHAPES[device.partition(":")[0]]
    logits, target = (torch.from_numpy(array).to(device) for array in example(shape))
    return [*_cldice(logits, target, device), *_terms(logits, target, device), _targets()]


def _cldice(logits: torch.Tensor, target: torch.Tensor, device: str) -> list[Row]:
    size = " x ".join(map(str, [logits.shape[0], *logits.shape[2:]]))
    ours = SoftClDiceLoss(iterations=ITERATIONS)
    label = target[:, :1]
    classes = torch.cat([label != 1, label == 1], 1).float()
    theirs = MonaiSoftclDiceLoss(iter_=ITERATIONS, softmax=True)

    works = [_backward(ours, logits, target), _backward(theirs, logits, classes)]
    times = interleaved(works, repeats=REPEATS, device=device)
    kept = [saved_bytes(work) for work in works]

    # The same value: MONAI has no ignore label, so nothing is ignored here, and it gets the surface alone.
    known = torch.where(target[:, :1] == IGNORE_LABEL, 0, target[:, :1])
    surface = torch.softmax(logits, 1)[:, 1:]
    difference = abs(float(ours(logits, known)) - float(MonaiSoftclDiceLoss(iter_=ITERATIONS)(surface, known)))
    return [
        Row(
            f"clDice of {size}, {ITERATIONS} iterations, forward and backward",
            show_seconds(times[0]),
            f"{show_seconds(times[1])} (MONAI, two channels)",
            times[1] / times[0],
            ">= 5",
        ),
        Row("clDice, kept for backward", *_bytes(kept), kept[0] / kept[1], "<= 0.2"),
        Row("clDice, difference from MONAI's on the surface channel", f"{difference:.1e}", "0", difference, "<= 1e-06"),
    ]


def _terms(logits: torch.Tensor, target: torch.Tensor, device: str) -> list[Row]:
    base = MaskedDiceCELoss()
    dense = {
        "clDice": SoftClDiceLoss(iterations=ITERATIONS),
        "medial recall": MedialRecallLoss(),
        "surface distance": SurfaceDistanceLoss(),
    }
    works = [_backward(loss, logits, target) for loss in (base, *dense.values())]
    times = interleaved(works, repeats=REPEATS, device=device)
    rows = [
        Row(f"{name}, forward and backward", show_seconds(time), f"{show_seconds(times[0])} (Dice + CE)", None, "")
        for name, time in zip(dense, times[1:], strict=True)
    ]
    betti = BettiMatchingLoss()
    what = "Betti matching of a 48^3 crop, forward and backward"
    if not betti.available:
        return [*rows, not_measured(what, "topolosses is not installed")]
    time = seconds(_backward(betti, logits, target), repeats=3, device=device)
    return [*rows, Row(what, show_seconds(time), f"{show_seconds(times[0])} (Dice + CE)", None, "")]


def _targets() -> Row:
    label = _crop(scroll_phantom(seed=0, index=0, size=max(PATCH))[1], PATCH)
    transform, times = SurfaceTargetsd(keys="label"), []
    for _ in range(REPEATS):
        started = process_time()  # of all cores together, and whatever else the machine does
        transform({"label": label[None]})
        times.append(process_time() - started)
    what = f"targets of a patch of {' x '.join(map(str, PATCH))}, processor time"
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


def saved_bytes(work: Callable[[], Any]) -> int:
    """Bytes of all tensors that ``work()`` keeps for its backward pass; shared memory counts once."""
    storages: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()  # held, so no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        work()
    return sum(storage.nbytes() for storage in storages.values())


def peak_bytes(work: Callable[[], Any], device: str) -> int:
    """Most memory in tensors at any time of ``work()``, beyond what there was before."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        once(work, device)
        return torch.cuda.max_memory_allocated() - before
    with _TensorMemory() as memory:
        work()
    return memory.peak


def alive_bytes(work: Callable[[], Any], device: str) -> int:
    """Memory that ``work()`` has taken when it returns: its result and what that keeps for a backward pass."""
    if device.startswith("cuda"):
        before = torch.cuda.memory_allocated()
        result = work()
        alive = torch.cuda.memory_allocated() - before
        del result
        return alive
    with _TensorMemory() as memory:
        result = work()
        alive = memory.now
    del result
    return alive


class _TensorMemory(TorchDispatchMode):
    """Counts the storages that operations make, until they are freed: a CPU has no such count of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, function: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        before = set()
        tree_map_only(torch.Tensor, lambda tensor: before.add(tensor.untyped_storage()._cdata), (args, kwargs))
        result = function(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, lambda tensor: self._count(tensor, before), result)
        return result

    def _count(self, tensor: torch.Tensor, before: set[int]) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self._alive | before:  # a view, or written in place
            return
        self._alive.add(storage._cdata)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())

    def _free(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size


def _bytes(pair: list[int]) -> tuple[str, str]:
    return tuple(f"{size / MIB:.1f} MiB" for size in pair)

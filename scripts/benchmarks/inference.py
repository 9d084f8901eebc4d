"""Sliding windows beside MONAI's, with the surface bundle's network.

The network has learnt a phantom for a few steps, so that its masks have clear edges. It takes time and memory by the
voxel, so that ratios hold for any size of window. Decides that windows are blended by an inferer of our own. What a
whole scroll takes: ``scripts/predict_scroll.py --plan True``, and the summary of each of its runs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf, prod

import torch
from monai.inferers import Inferer, SlidingWindowInferer
from monai.utils import set_determinism

from scripts.nnunet.reference import measured
from scripts.phantoms import scroll_phantom

from custom.inferers import SlidingWindow
from custom.losses import MaskedDiceCELoss

from .measure import (
    FULL,
    SURFACE,
    Row,
    attempt,
    by,
    dice,
    in_a_process,
    interleaved,
    once,
    read_config,
    share_outside,
    taught,
)

BATCHES = (1, 2, 4, 8)
MIB = 2**20


@dataclass(frozen=True)
class Sizes:
    """Amounts of work; tests use smaller ones."""

    filters: int = 40
    roi: tuple[int, int, int] = (48, 96, 96)
    overlap: tuple[float, float, float] = (0.5, 0.25, 0.25)
    volume: tuple[int, int, int] = (96, 96, 168)
    steps: int = 40
    patch: int = 32
    repeats: int = 2
    long: tuple[int, int, int] = (576, 408, 408)
    """(D, H, W), 8 of the bundle's windows long."""
    memory_roi: tuple[int, int, int] = (72, 136, 136)
    gpu_volume: tuple[int, int, int] = (320, 320, 320)


def run(device: str, sizes: Sizes = Sizes()) -> list[Row]:  # noqa: B008
    """Windows on the device; on a CPU also the memory of a long volume."""
    set_determinism(seed=0)
    if device.startswith("cuda"):
        return attempt([("windows", lambda: gpu(device, sizes))])
    return attempt([("windows", lambda: cpu(sizes)), ("memory of a long volume", lambda: memory(sizes))])


def cpu(sizes: Sizes) -> list[Row]:
    """Voxels per second, masks, and time outside of the network."""
    network, volume = _taught(sizes)
    ours, theirs = _inferer(sizes.roi, sizes.overlap), _monai(sizes.roi, sizes.overlap)
    masks: dict[str, torch.Tensor] = {}

    def our_mask() -> None:
        masks["ours"] = ours(volume, network)[:, 0] > 0.5

    def their_mask() -> None:
        masks["theirs"] = theirs(volume, lambda windows: network(windows).float().softmax(1))[:, 1] > 0.5

    equal = _inferer(sizes.roi, sizes.overlap, precision="float32")
    works = [our_mask, their_mask, lambda: equal(volume, network)]
    times = interleaved(works, repeats=sizes.repeats)
    outside = share_outside(lambda timed: ours(volume, timed), network)
    what = f"voxels a second ({sizes.filters} filters, {by(sizes.volume)}, windows of {by(sizes.roi)})"
    alike = dice(masks["ours"], masks["theirs"])
    return [
        _faster(f"{what}, both in float32", sizes.volume, times[:0:-1], "MONAI", ""),
        _faster(f"{what}, ours as configured", sizes.volume, times[:2], "MONAI, float32", ">= 2.3"),
        Row("its mask: Dice with MONAI's", f"{alike:.5f}", "1", alike, ">= 0.999"),
        Row("its time outside the network", f"{outside:.2%}", "all of its time", outside, "<= 0.03"),
    ]


def gpu(device: str, sizes: Sizes) -> list[Row]:
    """Each inferer with its best batch size."""
    network = _network(sizes.filters).to(device).eval()
    roi, overlap = _bundle_windows()
    volume = torch.rand(1, 1, *sizes.gpu_volume)
    dtype = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16

    def ours(batch: int) -> None:
        _inferer(roi, overlap, batch)(volume, network)

    def theirs(batch: int) -> None:
        with torch.autocast("cuda", dtype=dtype):
            _monai(roi, overlap, batch)(volume.to(device), network)

    (first, a), (second, b) = (min((_on_gpu(work, batch), batch) for batch in BATCHES) for work in (ours, theirs))
    what = f"voxels a second ({by(sizes.gpu_volume)}, {a} and {b} windows at a time, the best for each)"
    peaks = [peak for _, peak in (first, second)]
    return [
        _faster(what, sizes.gpu_volume, [first[0], second[0]], "MONAI, autocast", ">= 1.25"),
        Row("its peak memory on the GPU", *map(_mib, peaks), peaks[0] / peaks[1], "<= 0.4"),
    ]


def memory(sizes: Sizes) -> list[Row]:
    """Resident memory added by a volume 8 windows long, including the result, each in a separate process."""
    roi = sizes.memory_roi
    cases = {
        "a network that needs none": (*_bundle_windows(), 0, sizes.long),
        f"{sizes.filters} filters": (roi, (0, 0, 0), sizes.filters, (8 * roi[0], *roi[1:])),
    }
    rows = []
    for network, case in cases.items():
        pair = [in_a_process(_extra_memory, kind, *case) for kind in ("ours", "theirs")]
        what = f"resident memory that {by(case[-1])} adds, result included (windows of {by(case[0])}, {network})"
        rows.append(Row(what, _mib(pair[0]), f"{_mib(pair[1])} (MONAI, float32)", pair[0] / pair[1], "<= 0.5"))
    return rows


def _extra_memory(kind: str, roi: Sequence[int], overlap: Sequence[float], filters: int, shape: Sequence[int]) -> int:
    """Increase of the peak resident memory by a prediction, in bytes."""
    network = _network(filters).eval() if filters else _two_classes
    inferer = (_inferer if kind == "ours" else _monai)(roi, overlap)
    volume = torch.rand(1, 1, *shape)
    inferer(volume[:, :, : roi[0], : roi[1], : roi[2]], network)  # warm-up of the libraries
    _, cost = measured(lambda: inferer(volume, network))
    return max(1, cost["memory"])  # 0 if the warm-up left enough memory


def _two_classes(windows: torch.Tensor) -> torch.Tensor:
    """A network that needs no memory itself."""
    return torch.cat([-windows, windows], dim=1)


def _network(filters: int) -> torch.nn.Module:
    config = read_config(SURFACE, "inference", *FULL[SURFACE])
    config["network_def#init_filters"] = filters
    return config.get_parsed_content("network_def")


def _taught(sizes: Sizes) -> tuple[torch.nn.Module, torch.Tensor]:
    """A network trained briefly on a phantom, and its input."""
    image, label = scroll_phantom(seed=0, index=0, size=max(sizes.volume), ignore=0.0)
    grey, label = torch.from_numpy(image)[None, None] / 127.5 - 1, torch.from_numpy(label)[None, None]
    loss, random = MaskedDiceCELoss(), torch.Generator().manual_seed(0)

    def patches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            starts = [int(torch.randint(length - sizes.patch + 1, (), generator=random)) for length in grey.shape[2:]]
            box = (..., *(slice(start, start + sizes.patch) for start in starts))
            yield grey[box], label[box]

    network = taught(_network(sizes.filters), lambda outputs, label: loss(outputs[0], label), patches(), sizes.steps)
    return network, grey[(..., *map(slice, sizes.volume))].contiguous()


def _on_gpu(work: Callable[[int], None], batch: int) -> tuple[float, int]:
    """Seconds, and additional bytes; endless where memory does not suffice."""
    try:
        work(batch)
    except torch.OutOfMemoryError:
        return inf, 0
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    seconds = once(lambda: work(batch), "cuda")
    return seconds, torch.cuda.max_memory_allocated() - before


def _inferer(roi: Sequence[int], overlap: Sequence[float], batch: int = 1, precision: str = "auto") -> Inferer:
    """Return the bundle's inferer."""
    output = {"activation": "softmax", "channels": [1]}
    return SlidingWindow(roi_size=roi, overlap=overlap, sw_batch_size=batch, precision=precision, **output)


def _monai(roi: Sequence[int], overlap: Sequence[float], batch: int = 1) -> Callable[..., torch.Tensor]:
    return torch.no_grad()(SlidingWindowInferer(roi, batch, overlap, mode="gaussian"))


def _bundle_windows() -> tuple[list[int], list[float]]:
    config = read_config(SURFACE, "inference", *FULL[SURFACE])
    return config["patch_size"], config["overlap"]


def _faster(what: str, shape: Sequence[int], times: Sequence[float], theirs: str, goal: str) -> Row:
    rates = [f"{prod(shape) / seconds:.3g}" for seconds in times]
    return Row(what, rates[0], f"{rates[1]} ({theirs})", times[1] / times[0], goal)


def _mib(size: int) -> str:
    return f"{size / MIB:.0f} MiB"

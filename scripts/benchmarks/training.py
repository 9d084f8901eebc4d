"""Training of both bundles as their configurations declare it, on a GPU: steps, memory, and how busy the GPU is.

Phantoms of the size of real volumes, read by the bundles' own loaders. Decides whether the GPU or what feeds it has to
become faster.
"""

import time
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, supported_activities

from custom.training.steady_state import time_steps

from .measure import LIVER, SURFACE, Row, attempt, not_measured, show_seconds, training

GIB = 2**30


@dataclass(frozen=True)
class Sizes:
    """Amounts of work; tests use smaller ones."""

    scroll: int = 224
    ct: int = 512
    steps: int = 20
    epoch: int = 48
    limit_s: float = 60.0
    options: tuple[tuple[str, tuple[tuple[str, Any], ...]], ...] = ()
    """Options of each bundle."""


def run(device: str, sizes: Sizes = Sizes()) -> list[Row]:  # noqa: B008
    """Steps, and an epoch with validation, of both bundles."""
    if not device.startswith("cuda"):
        return [not_measured("training of both bundles", "needs a GPU")]
    with TemporaryDirectory(prefix="benchmark-training-") as folder:
        parts = [
            (bundle, lambda bundle=bundle: _training(bundle, Path(folder), device, sizes))
            for bundle in (SURFACE, LIVER)
        ]
        return attempt(parts)


def _training(bundle: str, folder: Path, device: str, sizes: Sizes) -> list[Row]:
    options = {"epochs": 1, "steps_per_epoch": sizes.epoch, "num_workers": 4} | dict(
        dict(sizes.options).get(bundle, ())
    )
    flow = training(bundle, folder, device, sizes.scroll, sizes.ct, **options)
    trainer = flow.parser.get_parsed_content("train#trainer")
    torch.cuda.reset_peak_memory_stats()
    times = time_steps(trainer, sizes.steps, sizes.limit_s)
    batch = len(trainer.state.batch["image"])
    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / GIB
    peak = torch.cuda.max_memory_reserved() / GIB
    rate = f"{batch / times.seconds:.0f} {'slices' if bundle == LIVER else 'patches'}/s"
    rows = [
        Row(f"{bundle}: a step of {batch}, loading included", show_seconds(times.seconds), rate, None, ""),
        Row(f"{bundle}: limited by", times.limited_by, f"waiting for data {times.data_wait:.0%}", None, ""),
        Row(f"{bundle}: peak memory of a step", f"{peak:.1f} GiB", f"of {total:.0f} GiB", None, ""),
    ]
    return [*rows, _epoch(bundle, trainer, sizes.epoch)]


def _epoch(bundle: str, trainer: Any, steps: int) -> Row:
    """The share of an epoch, validation included, in which the GPU computes."""
    what = f"{bundle}: share of an epoch of {steps} steps and a validation in which the GPU is busy"
    sees_kernels = ProfilerActivity.CUDA in supported_activities()
    started = time.perf_counter()
    with profile(activities=[ProfilerActivity.CUDA]) if sees_kernels else nullcontext() as profiled:
        trainer.run()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    if not sees_kernels:
        return not_measured(what, "torch's profiler cannot see kernels here", ">= 0.9")
    ranges = [event.time_range for event in profiled.events() if event.device_type == DeviceType.CUDA]
    share = covered((part.start, part.end) for part in ranges) / 1e6 / seconds
    return Row(what, f"{share:.0%}", f"of {show_seconds(seconds)}", share, ">= 0.9")


def covered(ranges: Iterable[tuple[float, float]]) -> float:
    """Return the length that ranges cover, overlaps counted once."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(ranges):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total

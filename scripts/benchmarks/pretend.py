"""What a GPU is asked to do, counted on a pretended one: kernels, traffic, memory, and where the host waits for it.

Decides what of a step to change before a GPU is at hand. The time is the roofline of an H100, kernel after kernel: what
the card needs if the host never lets it wait. A step of each bundle as its configuration declares it, at full size.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from scripts.pretended_gpu import H100, PretendedGPU, Record, why_not

from .measure import FULL, LIVER, SURFACE, Row, attempt, by, not_measured, read_config, training

GIB = 2**30
FULL_SURFACE, FULL_LIVER = (", ".join([bundle, *FULL[bundle]]) for bundle in (SURFACE, LIVER))
GOALS = {
    SURFACE: {"waits": "<= 0.1", "copied": "", "kernels": "", "roofline": ""},
    FULL_SURFACE: {"waits": "<= 0.1", "copied": "<= 6", "kernels": "", "roofline": "<= 34"},
    LIVER: {"waits": "<= 0.1", "copied": "", "kernels": "", "roofline": ""},
    FULL_LIVER: {"waits": "<= 0.1", "copied": "<= 2.5", "kernels": "<= 2300", "roofline": "<= 22"},
}


@dataclass(frozen=True)
class Sizes:
    """Sizes; tests use smaller ones."""

    scroll: int = 160
    ct: int = 512
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By the names in ``GOALS``."""
    precision: str = "bfloat16"


def run(device: str, sizes: Sizes = Sizes()) -> list[Row]:  # noqa: B008
    """Steps and inference of both bundles; the device plays no part."""
    if reason := why_not():
        return [not_measured("kernels, memory and waits on a pretended GPU", reason)]
    parts: list[tuple[str, Callable[[], list[Row]]]] = []
    with TemporaryDirectory(prefix="benchmark-pretend-") as folder:
        for name in GOALS:
            parts.append((f"step of {name}", lambda name=name: step(name, Path(folder), sizes)))
        for bundle in (SURFACE, LIVER):
            parts.append((f"inference of {bundle}", lambda bundle=bundle: inference(bundle)))
        return attempt(parts)


def step(name: str, folder: Path, sizes: Sizes) -> list[Row]:
    """A batch, made one step ahead, and the second step, without terms that have an interval and without logs.

    The name is that of the bundle, and of override files after it.
    """
    bundle, *configs = name.split(", ")
    options = {"precision": sizes.precision, **sizes.options.get(name, {})}
    with PretendedGPU("shapes") as record:
        flow = training(bundle, folder, "cuda", sizes.scroll, sizes.ct, configs=configs, **options)
        trainer = flow.parser.get_parsed_content("train#trainer")
        batches = iter(trainer.data_loader)
        next(batches)
        record.reset()
        batch = next(batches)
        rows = _batch_rows(name, record)
        for _ in range(2):
            if hasattr(trainer.loss_function, "calls"):
                trainer.loss_function.calls = 1
            record.reset()
            record.reset_peak()
            trainer.state.batch = batch
            trainer.state.output = trainer._iteration(trainer, batch)
    return rows + _step_rows(name, f"{by(batch['image'].shape)}, {sizes.precision}", record)


def _batch_rows(name: str, record: Record) -> list[Row]:
    """What the loader asks of the GPU, beside the step before."""
    goals, waits = GOALS[name], sum(record.waits.values())
    copied, milliseconds = record.copied_bytes["H2D"] / 1e6, 1e3 * record.seconds(H100)
    kernels = f"{len(record.kernels)} kernels, {record.traffic / GIB:.1f} GiB of traffic"
    return [
        Row(f"{name}: waits of the host for a batch", str(waits), "", waits, goals["waits"]),
        *_places(record),
        Row(f"{name}: copied to the GPU for a batch, MB", f"{copied:.2f}", "", copied, goals["copied"]),
        Row(f"{name}: transforms of a batch on an H100, roofline, ms", f"{milliseconds:.1f}", kernels, None, ""),
    ]


def _places(record: Record) -> list[Row]:
    return [Row(f"where: {line}", str(count), "", None, "") for line, count in record.waits.most_common()]


def _step_rows(name: str, what: str, record: Record) -> list[Row]:
    goals, waits = GOALS[name], sum(record.waits.values())
    milliseconds = 1e3 * record.seconds(H100)
    arithmetic = f"{record.flops / 1e12:.2f} TFLOP, {record.traffic / GIB:.1f} GiB of traffic"
    return [
        Row(f"{name}: waits of the host in a step ({what})", str(waits), "", waits, goals["waits"]),
        *_places(record),
        Row(f"{name}: kernels of a step", str(len(record.kernels)), "", len(record.kernels), goals["kernels"]),
        Row(f"{name}: roofline on an H100, ms", f"{milliseconds:.1f}", arithmetic, milliseconds, goals["roofline"]),
        Row(f"{name}: peak memory of a step, tensors alone", f"{record.peak / GIB:.1f} GiB", "", None, ""),
    ]


def inference(bundle: str) -> list[Row]:
    """Waits for each call of a small network, beside those for the volume as a whole."""
    config = read_config(bundle, "inference")
    small = {
        SURFACE: {"patch_size": [16, 32, 32], "network_def#init_filters": 4},
        LIVER: {"context_mm": None, "sw_batch_size": 2},
    }
    config.update(small[bundle])
    config.update({"tta": [], "precision": "float32"})
    lengths = (32, 64) if bundle == SURFACE else (4, 8)
    waits, calls = [], []

    def counted(windows: torch.Tensor) -> torch.Tensor:
        calls[-1] += 1
        return network(windows)

    with PretendedGPU("real") as record:
        network = config.get_parsed_content("network_def").to("cuda").eval()
        for length in lengths:
            calls.append(0)
            volume = torch.rand(1, 1, length, 32, 32).to("cuda")
            record.reset()
            config.get_parsed_content("inferer")(volume, counted)
            waits.append(sum(record.waits.values()))
    each = (waits[1] - waits[0]) / (calls[1] - calls[0])
    once = waits[0] - each * calls[0]
    what = f"{bundle}: waits of the host for each batch in inference"
    return [Row(what, f"{each:.2g}", f"and {once:.0f} for a volume", each, "<= 0")]

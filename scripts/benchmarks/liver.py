"""The liver bundle's default version: volumes predicted beside MONAI's slice inferer, training beside resident data."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.inferers import SliceInferer
from tqdm import tqdm

from custom.data import PatchDataset, StreamLoader, VolumeCache, VolumeDataset
from custom.data.phantoms import write_abdomens
from custom.inferers import AutocastInferer, SliceVolumeInferer
from custom.transforms import LabelToRegionsd

from .measure import Row, interleaved, not_measured, once, show_seconds

CONFIGS = Path(__file__).resolve().parents[2] / "bundles" / "liver_tumor_2d" / "configs"


@dataclass(frozen=True)
class Sizes:
    """How much work is measured; tests run less of it."""

    size: int = 512
    slices: int = 8
    batch: int = 4
    repeats: int = 3
    crop: int = 128
    crops: int = 8
    warm_up_steps: int = 200
    step_size: int = 256
    step_batch: int = 2
    steps: int = 6
    blocks: int = 4
    gpu_batches: tuple[int, ...] = (8, 16, 32)
    gpu_steps: int = 30


def run(device: str, sizes: Sizes = Sizes()) -> list[Row]:  # noqa: B008
    """Inference of whole volumes, then training."""
    with TemporaryDirectory() as folder:
        data = write_abdomens(Path(folder, "data"), n_train=4, n_test=1, size=sizes.size, slices=sizes.slices)
        config = ConfigParser.load_config_file(CONFIGS / "train.json") | {
            "dataset_dir": str(data),
            "cache_dir": str(Path(folder, "cache")),
            "slice_size": [sizes.step_size] * 2,
            "batch_size": sizes.step_batch,
            "n_folds": 4,
            "num_workers": 8 if device.startswith("cuda") else 0,
            "device": device,
        }
        parser = ConfigParser({**config, "imports": ["$import os", "$import monai", "$import torch"]})
        return [*_inference(parser, device, sizes), *_training(parser, device, sizes)]


# -------------------------------------------------------------------------------------------------------- inference


def _inference(parser: ConfigParser, device: str, sizes: Sizes) -> list[Row]:
    volumes = parser.get_parsed_content("train#volumes")
    network = _trained(parser.get_parsed_content("network_def"), volumes, device, sizes)
    (item,) = VolumeDataset(
        volumes=parser.get_parsed_content("validate#volumes"),
        transform=parser.get_parsed_content("validate#preprocessing"),
    )
    image = item["image"][None].to(device)

    ours = SliceVolumeInferer(batch_size=sizes.batch, divisor=32)
    theirs = SliceInferer(roi_size=image.shape[3:], sw_batch_size=sizes.batch, spatial_dim=0)
    outputs: dict[str, torch.Tensor] = {}

    def predict_ours() -> None:
        outputs["ours"] = ours(image, network)

    @torch.no_grad()
    def predict_theirs() -> None:
        outputs["theirs"] = theirs(image, network).sigmoid()

    times = interleaved([predict_ours, predict_theirs], repeats=sizes.repeats, device=device)
    what = f"{sizes.slices} slices of {sizes.size}x{sizes.size}, batch {sizes.batch}"
    goal = "" if device.startswith("cuda") else ">= 1.5"
    rows = [Row(f"whole volume, {what}", *map(show_seconds, times), times[1] / times[0], goal)]
    found, expected = (_as_tensor(outputs[name]) >= 0.5 for name in ("ours", "theirs"))
    rows += [
        Row(f"Dice of the two, {region}", f"{int(a.sum())} voxels", f"{int(b.sum())} voxels", _dice(a, b), ">= 0.999")
        for region, a, b in zip(("liver", "tumour"), found[0], expected[0], strict=True)
        if region == "liver" or b.any()
    ]
    return [*rows, *_overhead(parser, ours, item, network, device, sizes)]


def _overhead(
    parser: ConfigParser,
    inferer: SliceVolumeInferer,
    item: dict[str, Any],
    network: torch.nn.Module,
    device: str,
    sizes: Sizes,
) -> list[Row]:
    """What is not the network's, as a share of the whole."""
    inside: list[float] = []

    def timed(batch: torch.Tensor) -> torch.Tensor:
        outputs: list[torch.Tensor] = []
        inside.append(once(lambda: outputs.append(network(batch)), device))
        return outputs[0]

    postprocess = parser.get_parsed_content("validate#postprocessing")
    shares, all_shares = [], []
    for _ in range(sizes.repeats):
        inside.clear()
        results: list[torch.Tensor] = []
        image = item["image"][None].to(device)
        within = once(lambda image=image, results=results: results.append(inferer(image, timed)), device)
        after = once(lambda results=results: postprocess({**item, "pred": results[0][0]}), device)
        shares.append(1 - sum(inside) / within)
        all_shares.append(1 - sum(inside) / (within + after))
    return [
        Row("share of the inferer's time outside the network", f"{median(shares):.1%}", "", median(shares), "<= 0.05"),
        Row("the same with threshold and clean_liver", f"{median(all_shares):.1%}", "", median(all_shares), ""),
    ]


def _trained(network: torch.nn.Module, volumes: VolumeCache, device: str, sizes: Sizes) -> torch.nn.Module:
    """The network after a training on crops: one that is undecided about many voxels shows any rounding."""
    crop = (1, sizes.crop, sizes.crop)
    patches = PatchDataset(volumes=volumes, patch_size=crop, seed=0, foreground_share=0.7, transform=_windowed)
    network = network.to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, sizes.warm_up_steps, power=0.9)
    loss = _config_loss()
    with closing(iter(StreamLoader(dataset=patches, batch_size=sizes.crops))) as batches:
        for batch in tqdm(islice(batches, sizes.warm_up_steps), total=sizes.warm_up_steps, desc="training"):
            logits = network(batch["image"][:, :, 0].to(device))
            optimizer.zero_grad()
            loss(logits, batch["label"][:, :, 0].to(device)).backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def _windowed(item: dict[str, Any]) -> dict[str, Any]:
    """HU of [-100, 200] as [0, 1], the label as regions."""
    item = LabelToRegionsd("label")(item)
    return {"image": ((item["image"].float() + 100) / 300).clamp(0, 1), "label": item["label"]}


def _config_loss() -> torch.nn.Module:
    return ConfigParser(ConfigParser.load_config_file(CONFIGS / "train.json")).get_parsed_content("loss")


def _dice(a: torch.Tensor, b: torch.Tensor) -> float:
    return 2 * float((a & b).sum()) / max(float(a.sum() + b.sum()), 1.0)


def _as_tensor(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor


# --------------------------------------------------------------------------------------------------------- training


def _training(parser: ConfigParser, device: str, sizes: Sizes) -> list[Row]:
    network = parser.get_parsed_content("network_def").to(device).train()
    on_gpu = device.startswith("cuda")
    step = _stepper(network, device, "bf16" if on_gpu else "fp32")
    loader = parser.get_parsed_content("train#dataloader")
    with closing(iter(loader)) as batches:
        resident = next(batches)
    step(resident)

    fed, held = [], []
    for _ in range(sizes.blocks):
        held.append(_block(step, (resident for _ in range(sizes.steps)), device))
        with closing(iter(loader)) as batches:  # the first batch is waited for
            fed.append(_block(step, islice(batches, sizes.steps), device))
    ours, theirs = min(fed) / sizes.steps, min(held) / sizes.steps  # what other work on the machine adds is left out
    what = f"training step, {sizes.step_size}x{sizes.step_size}, batch {sizes.step_batch}: from the cache, resident"
    rows = [Row(what, show_seconds(ours), show_seconds(theirs), ours / theirs, "<= 1.05")]
    return rows + (_throughput(step, device, sizes) if on_gpu else [_no_gpu("training, 512x512, bf16, batch 8 to 32")])


def _throughput(step: Callable[[dict[str, torch.Tensor]], None], device: str, sizes: Sizes) -> list[Row]:
    speeds = {}
    for size in sizes.gpu_batches:
        shape = (size, 1, sizes.size, sizes.size)
        batch = {"image": torch.rand(shape, device=device), "label": torch.rand(shape, device=device).round()}
        batch["label"] = batch["label"].expand(-1, 2, -1, -1)
        _block(step, (batch for _ in range(5)), device)
        taken = _block(step, (batch for _ in range(sizes.gpu_steps)), device)
        speeds[size] = size * sizes.gpu_steps / taken
    best = max(speeds, key=speeds.__getitem__)
    return [
        Row(
            f"training, {sizes.size}x{sizes.size}, bf16, batch {size}",
            f"{speed:.0f} slices/s",
            "4 to 5 slices/s (the seed's P100)",
            speed,
            ">= 150" if size == best else "",
        )
        for size, speed in speeds.items()
    ]


def _stepper(network: torch.nn.Module, device: str, precision: str) -> Callable[[dict[str, torch.Tensor]], None]:
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    loss, inferer = _config_loss(), AutocastInferer(precision=precision)

    def step(batch: dict[str, torch.Tensor]) -> None:
        image, label = (batch[key].to(device, non_blocking=True) for key in ("image", "label"))
        optimizer.zero_grad()
        loss(inferer(image, network), label).backward()
        optimizer.step()

    return step


def _block(step: Callable[[dict[str, torch.Tensor]], None], batches: Iterator[Any], device: str) -> float:
    """Seconds of a step on each of the batches, their making included."""

    def work() -> None:
        for batch in batches:
            step(batch)

    return once(work, device)


def _no_gpu(what: str) -> Row:
    return not_measured(what, "no GPU; 4 to 5 slices/s on the seed's P100", ">= 150")

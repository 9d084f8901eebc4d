"""A training step of the surface bundle as its configuration declares it: what loss terms and checkpointing cost."""

import gc
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from monai.bundle import ConfigParser

from custom.inferers import AutocastInferer
from custom.networks import checkpoint_activations

from .losses import alive_bytes, example, peak_bytes
from .measure import Row, interleaved, not_measured, seconds, show_seconds

CONFIGS = Path(__file__).resolve().parents[2] / "bundles" / "vesuvius_surface_3d" / "configs"
CPU_BATCH = (1, 24, 48, 48)
"""Batch and patch on a CPU. Network and losses take time and memory by the voxel, so the ratios hold for any size."""
REPEATS = {"cpu": 5, "cuda": 20}
GIB = 2**30


@dataclass
class Setting:
    """What all rows share: the bundle's settings, its network, a batch and where it is."""

    config: ConfigParser
    network: torch.nn.Module
    image: torch.Tensor
    target: torch.Tensor
    device: str

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def repeats(self) -> int:
        return REPEATS["cuda" if self.on_gpu else "cpu"]

    @property
    def precision(self) -> str:
        return "bf16" if self.on_gpu else "fp32"

    def predict(self, network: torch.nn.Module) -> list[torch.Tensor]:
        return AutocastInferer(precision=self.precision)(self.image, network)

    def step(self, network: torch.nn.Module, loss: torch.nn.Module) -> Callable[[], None]:
        """One optimizer step on the batch."""
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)

        def work() -> None:
            optimizer.zero_grad()
            loss(self.predict(network), self.target).backward()
            optimizer.step()

        return work


def run(device: str) -> list[Row]:
    """All terms against Dice + CE, activation checkpointing, and the seed's configuration on a GPU."""
    config = _config("train")
    shape = (config["batch_size"], *config["patch_size"]) if device.startswith("cuda") else CPU_BATCH
    logits, target = (torch.from_numpy(array).to(device) for array in example(shape))
    network = config.get_parsed_content("network_def").to(device).train()
    setting = Setting(config, network, logits[:, 1:] / 6, target, device)
    rows = _terms(setting)
    return [*rows, *_checkpointing(setting)]


def _terms(setting: Setting) -> list[Row]:
    loss, plain = (_config("train", *names).get_parsed_content("loss") for names in ([], ["loss_dice_ce"]))
    betti, interval = loss.terms["betti"], loss.every["betti"]
    loss.weights.pop("betti", None)  # timed by itself: it is computed on every N-th step only

    steps = [setting.step(setting.network, one) for one in (loss, plain)]
    times = interleaved(steps, repeats=setting.repeats, device=setting.device)
    peaks = [peak_bytes(step, setting.device) / GIB for step in steps]
    total = _all_memory(steps[0], setting)

    # On a smaller patch the step is cheaper, but not the crop of 48^3 that Betti matching sees.
    default = [setting.config["batch_size"], *setting.config["patch_size"]]
    scale = prod(default) / setting.target[:, 0].numel()
    scaled = "" if scale == 1 else f", {show_seconds(scale * times[0])} for {_size(default)} by voxels"
    share = _betti_seconds(betti, setting.device) / interval if betti.available else 0.0
    ratio = (scale * times[0] + share) / (scale * times[1])
    where = f"default network, {_size([setting.image.shape[0], *setting.image.shape[2:]])}, {setting.precision}"
    what = f"Betti matching every {interval} steps, seconds a step"
    rows = [
        Row(
            f"step with all terms, Betti matching included ({where})",
            show_seconds(times[0]),
            f"{show_seconds(times[1])} (Dice + CE)",
            ratio,
            "<= 1.25",
        ),
        Row("its peak memory", f"{peaks[0]:.2f} GiB", f"{peaks[1]:.2f} GiB (Dice + CE)", peaks[0] / peaks[1], "<= 1.2"),
        Row(what, show_seconds(share), f"{show_seconds(times[0])}{scaled} (step)", share / scale / times[0], "<= 0.1")
        if betti.available
        else not_measured(what, "topolosses is not installed", "<= 0.1"),
    ]
    seed = "base 40, 2 x 72 x 136 x 136, bf16, all terms"
    if not setting.on_gpu:
        goals = {"seconds a step": "<= 0.25", "peak GiB": "<= 20"}
        return [*rows, *(not_measured(f"{seed}: {name}", "no GPU", goal) for name, goal in goals.items())]
    step = times[0] + share
    return [
        *rows,
        Row(f"{seed}: seconds a step", f"{step:.3f}", "about 11 (the seed, A100)", step, "<= 0.25"),
        Row(f"{seed}: peak GiB", f"{total:.1f}", "53.6 (the seed, A100)", total, "<= 20"),
    ]


def _checkpointing(setting: Setting) -> list[Row]:
    names = _config("train", "low_memory")["checkpoint_levels"]
    networks = [checkpoint_activations(deepcopy(setting.network), names=names), setting.network]
    loss = _config("train", "loss_dice_ce").get_parsed_content("loss")
    kept = [alive_bytes(lambda network=network: setting.predict(network), setting.device) / GIB for network in networks]
    steps = [setting.step(network, loss) for network in networks]
    times = interleaved(steps, repeats=setting.repeats, device=setting.device)
    return [
        Row(
            "activations kept with the two finest levels checkpointed",
            f"{kept[0]:.2f} GiB",
            f"{kept[1]:.2f} GiB (without)",
            kept[0] / kept[1],
            "<= 0.5",
        ),
        Row("its step", show_seconds(times[0]), f"{show_seconds(times[1])} (without)", times[0] / times[1], "<= 1.35"),
    ]


def _betti_seconds(betti: torch.nn.Module, device: str) -> float:
    logits, target = (torch.from_numpy(array).to(device) for array in example((1, 64, 64, 64)))
    return seconds(lambda: betti(logits.detach().requires_grad_(), target).backward(), repeats=3, device=device)


def _all_memory(step: Callable[[], None], setting: Setting) -> float:
    """Peak memory of the GPU in GiB, weights and optimizer included."""
    if not setting.on_gpu:
        return 0.0
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_reserved() / GIB


def _config(*names: str) -> ConfigParser:
    files = [str(CONFIGS / f"{name}.json") for name in names]
    return ConfigParser(ConfigParser.load_config_files(files))


def _size(numbers: list[int]) -> str:
    return " x ".join(map(str, numbers))

"""A training step of the surface bundle as its configuration declares it: what loss terms and checkpointing cost.

Decides which terms are on by default, how often Betti matching is computed, and which levels low_memory.json
recomputes. What a run takes on the data and the card at hand: ``python -m monai.bundle run plan``.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from math import prod

import torch
from monai.bundle import ConfigParser

from custom.inferers import AutocastInferer
from custom.networks import checkpoint_activations

from .losses import example, saved_bytes
from .measure import SURFACE, Row, by, interleaved, not_measured, read_config, seconds, show_seconds

CPU_BATCH = (1, 24, 48, 48)
"""Batch and patch on a CPU. Network and losses take time and memory by the voxel, so the ratios hold for any size."""
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

    def times(self, steps: list[Callable[[], None]]) -> list[float]:
        return interleaved(steps, repeats=20 if self.on_gpu else 5, device=self.device)


def run(device: str) -> list[Row]:
    """All terms against Dice + CE, activation checkpointing, and memory on a GPU."""
    config = read_config(SURFACE, "train")
    shape = (config["batch_size"], *config["patch_size"]) if device.startswith("cuda") else CPU_BATCH
    logits, target = (torch.from_numpy(array).to(device) for array in example(shape))
    network = config.get_parsed_content("network_def").to(device).train()
    setting = Setting(config, network, logits[:, 1:] / 6, target, device)
    return [*_terms(setting), *_checkpointing(setting)]


def _terms(setting: Setting) -> list[Row]:
    loss, plain = (read_config(SURFACE, "train", *names).get_parsed_content("loss") for names in ([], ["loss_dice_ce"]))
    betti, interval = loss.terms["betti"], loss.every["betti"]
    loss.weights.pop("betti", None)  # timed by itself: it is computed on every N-th step only
    steps = [setting.step(setting.network, one) for one in (loss, plain)]
    times = setting.times(steps)

    # On a smaller patch the step is cheaper, but not the crop of 48^3 that Betti matching sees.
    default = [setting.config["batch_size"], *setting.config["patch_size"]]
    scale = prod(default) / setting.target[:, 0].numel()
    scaled = "" if scale == 1 else f", {show_seconds(scale * times[0])} for {by(default)} by voxels"
    share = _betti_seconds(betti, setting.device) / interval if betti.available else 0.0
    ratio = (scale * times[0] + share) / (scale * times[1])
    where = f"default network, {by([setting.image.shape[0], *setting.image.shape[2:]])}, {setting.precision}"
    what = f"step with all terms, Betti matching included ({where})"
    rows = [Row(what, show_seconds(times[0]), f"{show_seconds(times[1])} (Dice + CE)", ratio, "<= 1.25")]
    what = f"Betti matching every {interval} steps, seconds a step"
    if betti.available:
        step = f"{show_seconds(times[0])}{scaled} (step)"
        rows.append(Row(what, show_seconds(share), step, share / scale / times[0], "<= 0.1"))
    else:
        rows.append(not_measured(what, "topolosses is not installed", "<= 0.1"))
    return [*rows, *(_on_gpu(steps[0], times[0] + share) if setting.on_gpu else [])]


def _on_gpu(step: Callable[[], None], taken: float) -> list[Row]:
    """Time and memory of the whole step, weights and optimizer included."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    step()
    memory = torch.cuda.max_memory_reserved() / GIB
    what = "base 40, 2 x 72 x 136 x 136, bf16, all terms"
    return [
        Row(f"{what}: seconds a step", f"{taken:.3f}", "about 11 (the seed, A100)", taken, "<= 0.25"),
        Row(f"{what}: peak GiB", f"{memory:.1f}", "53.6 (the seed, A100)", memory, "<= 20"),
    ]


def _checkpointing(setting: Setting) -> list[Row]:
    names = read_config(SURFACE, "train", "low_memory")["checkpoint_levels"]
    networks = [checkpoint_activations(deepcopy(setting.network), names=names), setting.network]
    loss = read_config(SURFACE, "train", "loss_dice_ce").get_parsed_content("loss")
    kept = [
        saved_bytes(lambda network=network: setting.predict(network), without=network.parameters()) / GIB
        for network in networks
    ]
    times = setting.times([setting.step(network, loss) for network in networks])
    what = "activations kept with the two finest levels checkpointed"
    return [
        Row(what, f"{kept[0]:.2f} GiB", f"{kept[1]:.2f} GiB (without)", kept[0] / kept[1], "<= 0.5"),
        Row("its step", show_seconds(times[0]), f"{show_seconds(times[1])} (without)", times[0] / times[1], "<= 1.35"),
    ]


def _betti_seconds(betti: torch.nn.Module, device: str) -> float:
    logits, target = (torch.from_numpy(array).to(device) for array in example((1, 64, 64, 64)))
    return seconds(lambda: betti(logits.detach().requires_grad_(), target).backward(), repeats=3, device=device)

"""A training step of the surface bundle as its configuration declares it: what loss terms and checkpointing cost.

Decides which terms are on by default, how often Betti matching is computed, and which levels low_memory.json
recomputes. What a run takes on the data and the card at hand: ``python -m monai.bundle run plan``.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from math import prod

import torch

from custom.inferers import AutocastInferer
from custom.networks import checkpoint_activations

from .losses import example, saved_bytes
from .measure import FULL, SURFACE, Row, by, interleaved, not_measured, read_config, show_seconds

CPU_BATCH = (1, 24, 48, 48)
"""Batch and patch on a CPU. Time and memory are proportional to voxels, so ratios hold for any size."""
GIB = 2**30


@dataclass
class Setting:
    """Common to all rows: the bundle's network, a batch and its device."""

    network: torch.nn.Module
    image: torch.Tensor
    target: torch.Tensor
    device: str
    precision: str

    def predict(self, network: torch.nn.Module) -> list[torch.Tensor]:
        return AutocastInferer(precision=self.precision)(self.image, network)

    def times(self, networks: list[torch.nn.Module], losses: list[torch.nn.Module]) -> list[float]:
        """Return the seconds of an optimizer step on the batch, for each network with its loss."""
        steps = [self._step(network, loss) for network, loss in zip(networks, losses, strict=True)]
        return interleaved(steps, repeats=20 if self.device.startswith("cuda") else 5, device=self.device)

    def _step(self, network: torch.nn.Module, loss: torch.nn.Module) -> Callable[[], None]:
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)

        def step() -> None:
            optimizer.zero_grad()
            loss(self.predict(network), self.target).backward()
            optimizer.step()

        return step


def run(device: str) -> list[Row]:
    """All terms compared with Dice + CE, and activation checkpointing."""
    config, on_gpu = read_config(SURFACE, "train", *FULL[SURFACE]), device.startswith("cuda")
    default = (config["batch_size"], *config["patch_size"])
    logits, target = (torch.from_numpy(array).to(device) for array in example(default if on_gpu else CPU_BATCH))
    network = config.get_parsed_content("network_def").to(device).train()
    setting = Setting(network, logits[:, 1:] / 6, target, device, "bfloat16" if on_gpu else "float32")
    return [*_terms(setting, default), *_checkpointing(setting)]


def _terms(setting: Setting, default: tuple[int, ...]) -> list[Row]:
    names = ("train", *FULL[SURFACE])
    loss, plain = (read_config(SURFACE, *names, *more).get_parsed_content("loss") for more in ([], ["loss_dice_ce"]))
    betti, interval = loss.terms["betti"], loss.every["betti"]
    loss.weights.pop("betti", None)  # timed separately: computed on every N-th step only
    times = setting.times([setting.network] * 2, [loss, plain])

    # A smaller patch makes the step cheaper, but not the crop of 48^3 for Betti matching.
    scale = prod(default) / setting.target[:, 0].numel()
    scaled = "" if scale == 1 else f", {show_seconds(scale * times[0])} for {by(default)} by voxels"
    share = _betti_seconds(betti, setting.device) / interval if betti.available else 0.0
    ratio = (scale * times[0] + share) / (scale * times[1])
    where = f"exp001_full.json, {by([setting.image.shape[0], *setting.image.shape[2:]])}, {setting.precision}"
    what = f"step with all terms, Betti matching included ({where})"
    rows = [Row(what, show_seconds(times[0]), f"{show_seconds(times[1])} (Dice + CE)", ratio, "<= 1.25")]
    what = f"Betti matching every {interval} steps, seconds a step"
    if betti.available:
        step = f"{show_seconds(times[0])}{scaled} (step)"
        rows.append(Row(what, show_seconds(share), step, share / scale / times[0], "<= 0.1"))
    else:
        rows.append(not_measured(what, "topolosses is not installed", "<= 0.1"))
    return rows


def _checkpointing(setting: Setting) -> list[Row]:
    names = read_config(SURFACE, "train", "low_memory")["module#names"]
    networks = [checkpoint_activations(deepcopy(setting.network), names=names), setting.network]
    loss = read_config(SURFACE, "train", "loss_dice_ce").get_parsed_content("loss")
    kept = [
        saved_bytes(lambda network=network: setting.predict(network), without=network.parameters()) / GIB
        for network in networks
    ]
    times = setting.times(networks, [loss] * 2)
    what = "activations kept with the two finest levels checkpointed"
    return [
        Row(what, f"{kept[0]:.2f} GiB", f"{kept[1]:.2f} GiB (without)", kept[0] / kept[1], "<= 0.5"),
        Row("its step", show_seconds(times[0]), f"{show_seconds(times[1])} (without)", times[0] / times[1], "<= 1.35"),
    ]


def _betti_seconds(betti: torch.nn.Module, device: str) -> float:
    logits, target = (torch.from_numpy(array).to(device) for array in example((1, 64, 64, 64)))
    works = [lambda: betti(logits.detach().requires_grad_(), target).backward()]
    return interleaved(works, repeats=3, device=device)[0]

"""What the training handlers cost: a step with all of them, a checkpoint.

Decides that all of them are on by default, and that checkpoints are written beside the training.
"""

import tempfile
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace

import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer

from custom.handlers import (
    EMA,
    Budget,
    Checkpoints,
    GradientGuard,
    History,
    Resources,
    SeedSteps,
    StepSchedule,
    TensorBoard,
)
from custom.inferers import AutocastInferer
from custom.training.lr_schedules import build_schedule

from .measure import SURFACE, Row, by, once, read_config, show_seconds, wait

PATCHES = {"cpu": (1, 16, 48, 48), "cuda": (2, 72, 136, 136)}
"""Batch and patch: the defaults on a GPU, smaller ones on a CPU, where the share of the handlers is larger."""


@dataclass(frozen=True)
class Sizes:
    """Amounts of work; tests use smaller ones."""

    patch: tuple[int, int, int, int] | None = None
    filters: int = 40
    steps: int = 3
    repeats: int = 10


def run(device: str, sizes: Sizes = Sizes()) -> list[Row]:  # noqa: B008
    """Training of the surface bundle's network, 31 million weights, with Dice + CE on a repeated batch."""
    batch, *patch = sizes.patch or PATCHES[device.partition(":")[0]]
    data = {
        "image": torch.rand(batch, 1, *patch, device=device),
        "label": torch.randint(0, 3, (batch, 1, *patch), device=device, dtype=torch.uint8),
        "id": ["case"] * batch,
    }
    with tempfile.TemporaryDirectory() as folder:
        plain = make_trainer(device, data, sizes)
        trainer = make_trainer(device, data, sizes, Path(folder))
        step = seconds_per_step([plain, trainer], device, sizes.repeats)
        stalls, writes = checkpoint_times(trainer, Path(folder) / "checkpoints", device)
    weights = sum(parameter.numel() for parameter in plain.network.parameters()) / 1e6
    what = f"a step with all handlers, {weights:.1f} million weights, {by((batch, *patch))}"
    none, full, stall = map(show_seconds, (*step, stalls))
    return [
        Row(what, full, f"{none} (none)", step[1] / step[0], "<= 1.03"),
        Row("training stalled by a checkpoint, seconds", stall, f"{show_seconds(writes)} (written)", stalls, "<= 1"),
    ]


def seconds_per_step(trainers: list[SupervisedTrainer], device: str, repeats: int) -> list[float]:
    """Return the shortest time per step of each trainer; they run alternately, and start-up is not counted.

    The minimum, because interference by other programs varies more than the handlers cost.
    """
    stamps: list[float] = []

    def note() -> None:
        wait(device)
        stamps.append(perf_counter())

    for trainer in trainers:
        trainer.add_event_handler(Events.ITERATION_COMPLETED, note)
    shortest = [inf] * len(trainers)
    for turn in range(1 + repeats):
        for number, trainer in enumerate(trainers):
            stamps.clear()
            trainer.run()
            steps = [after - before for before, after in pairwise(stamps)]
            if turn:  # not the first run
                shortest[number] = min(shortest[number], *steps)
    return shortest


def make_trainer(device: str, data: dict, sizes: Sizes, folder: Path | None = None) -> SupervisedTrainer:
    """Create a trainer of a few steps, with all handlers (writing into ``folder``) or with none."""
    config = read_config(SURFACE, "train", "loss_dice_ce")
    config["network_def"]["init_filters"] = sizes.filters
    network = config.get_parsed_content("network_def").to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    loss = config.get_parsed_content("loss")
    handlers = [] if folder is None else all_handlers(network, optimizer, loss, folder)
    return SupervisedTrainer(
        device=device,
        max_epochs=1,
        epoch_length=sizes.steps,
        train_data_loader=[data] * sizes.steps,
        network=network,
        optimizer=optimizer,
        loss_function=loss,
        inferer=AutocastInferer(precision="bfloat16" if device.startswith("cuda") else "float32"),
        decollate=False,
        train_handlers=handlers,
    )


def all_handlers(
    network: torch.nn.Module, optimizer: torch.optim.Optimizer, loss: torch.nn.Module, folder: Path
) -> list:
    """Return the handlers of train.json, without validation and checkpoints, which do not run in every step."""
    EMA(network=network, optimizer=optimizer)
    schedule = build_schedule(optimizer=optimizer, total_steps=10**6)
    checkpoints = SimpleNamespace(seconds=1.0, size=0, wait=lambda: None)
    return [
        SeedSteps(seed=0),
        GradientGuard(optimizer=optimizer, network=network, output_dir=str(folder), max_norm=12.0),
        StepSchedule(scheduler=schedule),
        Resources(),
        History(output_dir=str(folder), optimizer=optimizer),
        TensorBoard(output_dir=str(folder), optimizer=optimizer, loss=loss),
        Budget(checkpoints=checkpoints, hours=100.0),
    ]


def checkpoint_times(trainer: SupervisedTrainer, folder: Path, device: str) -> tuple[float, float]:
    """Return the seconds for which a checkpoint stops training, and until it is written."""
    ema = EMA(network=trainer.network, optimizer=torch.optim.SGD(trainer.network.parameters()))
    objects = {"network": trainer.network, "ema": ema, "optimizer": trainer.optimizer}
    checkpoints = Checkpoints(folder=str(folder), objects=objects)
    stalls = []
    for _ in range(3):
        stalls.append(once(lambda: checkpoints._save(trainer), device))
        checkpoints.wait()
    return min(stalls), checkpoints.seconds

"""What the training handlers cost: a step with all of them, the average of the weights, a checkpoint."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace

import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
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
from custom.schedules import build_schedule

from .measure import Row, once, show_seconds, wait

CONFIGS = Path(__file__).resolve().parents[2] / "bundles" / "vesuvius_surface_3d" / "configs"
PATCHES = {"cpu": (1, 16, 48, 48), "cuda": (2, 72, 136, 136)}
"""Batch and patch: the default ones on a GPU, smaller on a CPU, where the handlers weigh more."""


@dataclass(frozen=True)
class Sizes:
    """How much work is measured; tests run less of it."""

    patch: tuple[int, int, int, int] | None = None
    filters: int = 40
    steps: int = 3
    repeats: int = 10


def run(device: str, sizes: Sizes = Sizes()) -> list[Row]:  # noqa: B008
    """Training of the surface bundle's network, 31 million weights, with Dice + CE on one batch over and over."""
    batch, *patch = sizes.patch or PATCHES[device.partition(":")[0]]
    data = {
        "image": torch.rand(batch, 1, *patch, device=device),
        "label": torch.randint(0, 3, (batch, 1, *patch), device=device, dtype=torch.uint8),
        "id": ["case"] * batch,
    }
    with tempfile.TemporaryDirectory() as folder:
        plain = make_trainer(device, data, sizes)
        full = make_trainer(device, data, sizes, Path(folder))
        step = seconds_per_step([plain, full], device, sizes)
        ema = EMA(network=full.network, optimizer=torch.optim.SGD(full.network.parameters()))
        ema._update()
        average = min(once(ema._update, device) for _ in range(5))
        stalls, writes = checkpoint_times(full, Path(folder) / "checkpoints", device)
    size = " x ".join(map(str, (batch, *patch)))
    weights = sum(parameter.numel() for parameter in plain.network.parameters()) / 1e6
    return [
        Row(
            f"a step with all handlers, {weights:.1f} million weights, {size}",
            show_seconds(step[1]),
            f"{show_seconds(step[0])} (none)",
            step[1] / step[0],
            "<= 1.03",
        ),
        Row(
            "the average of the weights",
            show_seconds(average),
            f"{show_seconds(step[0])} (a step)",
            average / step[0],
            "<= 0.03",
        ),
        Row(
            "training stalled by a checkpoint, seconds",
            show_seconds(stalls),
            f"{show_seconds(writes)} (written)",
            stalls,
            "<= 1",
        ),
    ]


def seconds_per_step(trainers: list[SupervisedTrainer], device: str, sizes: Sizes) -> list[float]:
    """Shortest time of a step, of trainers that run in turns; what is done once a run does not count.

    The shortest, because what other work on the machine adds differs by more than the handlers do. A GPU is waited for
    after the first step and after the last one only, as in training, and its steps between them are taken together.
    """
    marks = (1, sizes.steps) if device.startswith("cuda") else range(1, sizes.steps + 1)
    found: list[list[float]] = []
    for trainer in trainers:
        times: list[tuple[int, float]] = []
        trainer.add_event_handler(Events.STARTED, times.clear)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, note, times, marks, device)
        found.append([])
        trainer.add_event_handler(Events.COMPLETED, collect, times, found[-1])
    for _ in range(1 + sizes.repeats):
        for trainer in trainers:
            trainer.run()
    counted = [steps[len(steps) // (1 + sizes.repeats) :] for steps in found]  # not the first run
    return [min(steps) for steps in counted]


def note(engine: Engine, times: list[tuple[int, float]], marks: Sequence[int], device: str) -> None:
    """The moment at which a step is done."""
    if engine.state.iteration in marks:
        wait(device)
        times.append((engine.state.iteration, perf_counter()))


def collect(times: list[tuple[int, float]], steps: list[float]) -> None:
    """Seconds of each step, or of a step on average where the steps between were not noted."""
    steps += [(after - before) / (last - first) for (first, before), (last, after) in pairwise(times)]


def make_trainer(device: str, data: dict, sizes: Sizes, folder: Path | None = None) -> SupervisedTrainer:
    """A trainer of a few steps; with all handlers, writing into ``folder``, or with none."""
    files = [str(CONFIGS / name) for name in ("train.json", "loss_dice_ce.json")]
    config = ConfigParser(ConfigParser.load_config_files(files))
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
        inferer=AutocastInferer(precision="bf16" if device.startswith("cuda") else "fp32"),
        decollate=False,
        train_handlers=handlers,
    )


def all_handlers(
    network: torch.nn.Module, optimizer: torch.optim.Optimizer, loss: torch.nn.Module, folder: Path
) -> list:
    """As in train.json, without what is not done in every step: validations and checkpoints."""
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
    """Seconds for which training stands still, and seconds until the file has its name."""
    ema = EMA(network=trainer.network, optimizer=torch.optim.SGD(trainer.network.parameters()))
    objects = {"network": trainer.network, "ema": ema, "optimizer": trainer.optimizer}
    checkpoints = Checkpoints(folder=str(folder), objects=objects)
    stalls = []
    for _ in range(3):
        stalls.append(once(lambda: checkpoints._save(trainer), device))
        checkpoints.wait()
    return min(stalls), checkpoints.seconds

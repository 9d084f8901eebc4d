"""A run of all handlers on a network of a few weights: imported by tests, and run by them as a process to kill."""

import json
import math
import os
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from ignite.engine import Events
from ignite.metrics import MeanSquaredError
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import ValidationHandler, from_engine

from custom.data.loader import StreamLoader
from custom.handlers import (
    EMA,
    Budget,
    Checkpoints,
    GradientGuard,
    History,
    SaveBestWeights,
    SaveFinalWeights,
    SeedSteps,
    StepSchedule,
)
from custom.ops.randomness import item_generator
from custom.training.lr_schedules import build_schedule


class Items(torch.utils.data.Dataset):
    """Item k is a function of k: eight numbers and their sum."""

    def __len__(self):
        return 16

    def __getitem__(self, k):
        image = torch.from_numpy(item_generator(0, k).standard_normal(8)).float()
        return {"image": image, "label": image.sum()[None], "id": f"case{k % 16}"}


class Network(torch.nn.Sequential):
    """With what a state must not forget: running statistics, and randomness inside."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(
            torch.nn.Linear(8, 16), torch.nn.BatchNorm1d(16), torch.nn.Dropout(0.3), torch.nn.Linear(16, 1)
        )


def plain_network():
    """Items in a batch do not see one another, and nothing is random."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))


def build(
    folder,
    *,
    epochs=4,
    steps=7,
    accumulation=2,
    num_workers=0,
    resume=False,
    overwrite=False,
    minutes=0.0,
    keep=2,
    hours=None,
    step_s=0.0,
    volume_s=0.0,
    schedule="one_cycle",
    batch_size=4,
    plain=False,
    max_norm=1.0,
    cases=(),
    volumes=(),
    changed_data=False,
    results=None,
    handlers_before=(),
):
    """The trainer; everything else can be reached from it."""
    folder = Path(folder)
    network = plain_network() if plain else Network()
    if dist.is_initialized() and dist.get_world_size() > 1:
        network = torch.nn.parallel.DistributedDataParallel(network)
    optimizer = (
        torch.optim.SGD(network.parameters(), lr=1.0) if plain else torch.optim.AdamW(network.parameters(), lr=0.05)
    )
    ema = EMA(network=network, optimizer=optimizer, decay=0.9)
    evaluator = SupervisedEvaluator(
        device="cpu",
        val_data_loader=[
            {"image": torch.stack([Items()[k]["image"]]), "label": torch.stack([Items()[k]["label"]])}
            for k in range(1000, 1004)
        ],
        network=ema.network,
        key_val_metric={"mse": MeanSquaredError(output_transform=from_engine(["pred", "label"]))},
        metric_cmp_fn=lambda new, best: new < best,
        val_handlers=[SaveBestWeights(path=str(folder / "model.pt"), network=ema.network)],
        decollate=False,
    )
    scheduler = build_schedule(
        optimizer=optimizer, name=schedule, total_steps=epochs * -(-steps // accumulation), patience=0
    )
    history = History(output_dir=str(folder), optimizer=optimizer, evaluator=evaluator)
    loader = StreamLoader(dataset=Items(), batch_size=batch_size, num_workers=num_workers)
    checkpoints = Checkpoints(
        folder=str(folder / "checkpoints"),
        objects={"network": network, "ema": ema, "optimizer": optimizer, "schedule": scheduler, "history": history},
        evaluator=evaluator,
        resume=resume,
        overwrite=overwrite,
        minutes=minutes,
        keep=keep,
        cases=[{"id": case} for case in cases],
        volumes=volumes,
        changed_data=changed_data,
        results=results,
    )
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=epochs,
        epoch_length=steps,
        train_data_loader=loader,
        network=network,
        optimizer=optimizer,
        loss_function=torch.nn.MSELoss(),
        accumulation_steps=accumulation,
        decollate=False,
        train_handlers=[
            *handlers_before,
            loader,
            SeedSteps(seed=0),
            GradientGuard(optimizer=optimizer, network=network, output_dir=str(folder), max_norm=max_norm),
            StepSchedule(scheduler=scheduler, evaluator=evaluator),
            ValidationHandler(interval=1, validator=evaluator),
            history,
            SaveFinalWeights(path=str(folder / "model_final.pt"), network=network),
            Budget(checkpoints=checkpoints, hours=hours, evaluator=evaluator),
            checkpoints,
        ],
    )
    trainer.add_event_handler(Events.ITERATION_STARTED, lambda _: time.sleep(step_s))
    evaluator.add_event_handler(Events.ITERATION_STARTED, lambda _: time.sleep(volume_s))
    trainer.checkpoints, trainer.evaluator, trainer.history = checkpoints, evaluator, history
    return trainer


def train(ranks=1, faulty=None, **options):
    """One run, in this process or in one for each rank; its exit code."""
    if faulty is not None:
        spoil(faulty)
    if ranks == 1:
        return attempt(lambda: build(**options).run())
    folder = Path(options["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    meeting = f"file://{folder}/meeting.{os.getpid()}"
    children = []
    for rank in range(ranks):
        children.append(os.fork())
        if children[-1] == 0:
            dist.init_process_group(
                "gloo", init_method=meeting, rank=rank, world_size=ranks, timeout=timedelta(seconds=60)
            )
            os._exit(attempt(lambda: build(**options).run()))
    (folder / "ranks").write_text(json.dumps(children))
    return max(abs(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])) for child in children)


def attempt(run):
    try:
        run()
        return 0
    except Exception as error:
        print(f"error: {error}")
        return 1
    finally:
        sys.stdout.flush()


def spoil(k):
    """Item k has a voxel that is not a number."""
    sound = Items.__getitem__

    def faulty(self, index):
        item = sound(self, index)
        if index == k:
            item["image"][3] = math.nan
        return item

    Items.__getitem__ = faulty


def fork_runs():
    """Start a run for each line of standard input, its options in JSON; answer with its process, then its status.

    The imports, which are most of a start, are shared; the runs are processes of their own nevertheless.
    """
    torch.set_num_threads(1)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os._exit(train(**json.loads(line)))
        print("process", child, flush=True)
        print("status", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    fork_runs()

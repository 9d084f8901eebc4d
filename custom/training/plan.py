"""Estimate of a training's time and memory before it starts."""

import math
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.networks.utils import eval_mode

from ..configuration import without_effect
from ..errors import DataError
from ..handlers import RunHandlers
from ..handlers.budget import process_age
from ..inferers.out_of_memory import lacks_memory
from ..system.memory import resident_bytes
from .steady_state import StepTimes, synchronize, time_steps

GIB = 2**30
WINDOWS = 3
"""Windows of the validation that are predicted; the first is not timed."""


@without_effect()
class Plan:
    """Runs a few training steps and validation windows, and prints what the whole training will take.

    The steps are real (data, network, loss, backward pass, optimizer), in this process only; nothing is saved. Their
    time is that of the slower of loading and computing, with terms of the loss that have an interval at their share. Of
    the validation, the first volume's windows are counted, three of them are predicted, and the metric is computed with
    the label as prediction.

    Example: ``{"_target_": "custom.training.Plan", "trainer": "@train#trainer", "evaluator": "@validate#evaluator",
    "run": "@train#handlers#3", "metric": "@validate#metric"}``

    Args:
        run: the trainer's :class:`custom.handlers.RunHandlers`, for the size of checkpoints and ``budget_hours``.
        metric: the validation metric, called as ``metric(predictions, labels)`` with lists of ``(1, D, H, W)``.
        steps: number of training steps to time, after those for which batches were prepared in advance.
    """

    def __init__(
        self,
        *,
        trainer: SupervisedTrainer,
        evaluator: SupervisedEvaluator,
        run: RunHandlers,
        metric: Callable[[list[torch.Tensor], list[torch.Tensor]], Any],
        cache_dir: str | None = None,
        val_interval: int = 1,
        steps: int = 10,
        limit_s: float = 180.0,
    ) -> None:
        self.trainer = trainer
        self.evaluator = evaluator
        self.checkpoints = run.checkpoints
        self.metric = metric
        self.cache_dir = cache_dir
        self.budget_hours = run.budget_hours
        self.val_interval = val_interval
        self.steps = steps
        self.limit_s = limit_s

    def run(self) -> dict[str, Any]:
        """Measure and print.

        Returns:
            ``seconds_per_step``, ``data_wait``, ``limited_by``, ``memory_gib``, ``gpu_memory_gib``, ``validation_s``,
            ``epoch_h``, ``run_h``, and with a budget ``steps_per_epoch``.

        Raises:
            DataError: training does not fit into the GPU's memory, the disk, or the budget.
        """
        set_up = process_age()
        device = self.trainer.state.device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        try:
            times = time_steps(self.trainer, self.steps, self.limit_s)
            validation_s, words = self._time_validation(device)
        except RuntimeError as error:
            if not lacks_memory(error):
                raise
            found = "too little memory for a training step or a window of the validation"
            smaller = "a smaller batch_size (with accumulation_steps), patch or slice size, network_def"
            raise DataError.of(_name_and_memory(device), found, f"{smaller}, or precision bfloat16") from error
        rows, numbers = self._measured(device, times, validation_s)
        rows.append(("a validation", f"{_duration(validation_s)} ({words})"))
        rows += self._projected(numbers, set_up)
        print("\n| what | |\n| --- | --- |", *(f"| {what} | {value} |" for what, value in rows), sep="\n", flush=True)
        self.checkpoints.check_space()
        if numbers.get("steps_per_epoch") == 0:
            raise DataError(
                f"budget_hours {self.budget_hours:g}: found too little time for one step in each of"
                f" {self.trainer.state.max_epochs} epochs, expected more, or fewer epochs, or a longer val_interval"
            )
        return numbers

    def _time_validation(self, device: torch.device) -> tuple[float, str]:
        """Estimated seconds for all volumes; how many there are, and windows of the first, in words."""
        evaluator = self.evaluator
        batch = next(iter(evaluator.data_loader))
        inputs, label = evaluator.prepare_batch(batch, device, False)[:2]
        network = FirstWindows(evaluator.network)
        started = time.monotonic()
        with torch.no_grad(), eval_mode(evaluator.network):
            evaluator.inferer(inputs, network)
        synchronize(device)
        self.metric(list(label), list(label))
        seconds = time.monotonic() - started + network.seconds_left_out
        volumes = len(evaluator.data_loader)
        return seconds * volumes, f"volumes: {volumes}, calls of the network for the first: {network.calls}"

    def _measured(
        self, device: torch.device, times: StepTimes, validation_s: float
    ) -> tuple[list[tuple[str, str]], dict[str, Any]]:
        trainer = self.trainer
        weights = sum(parameter.numel() for parameter in trainer.network.parameters())
        numbers = {
            "seconds_per_step": times.seconds,
            "data_wait": times.data_wait,
            "limited_by": times.limited_by,
            "memory_gib": resident_bytes() / GIB,
            "validation_s": validation_s,
        }
        image = trainer.state.batch["image"]
        span = f"from {min(times.totals):.3g} to {max(times.totals):.3g} in {len(times.own)} steps"
        rows = [
            ("network", f"{type(trainer.network).__name__}, {weights / 1e6:.1f} million weights"),
            ("batch", f"{' x '.join(map(str, image.shape))}, {trainer.accumulation_steps} in an optimizer step"),
            ("device", torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"),
            ("seconds a step", f"{times.seconds:.3g} ({span})"),
            *((f"of them {name}, on average", f"{share:.3g}") for name, share in times.periodic.items()),
            ("waiting for data", f"{times.data_wait:.0%}"),
            ("limited by", times.limited_by),
        ]
        if device.type == "cuda":
            numbers["gpu_memory_gib"] = torch.cuda.max_memory_reserved(device) / GIB
            total = torch.cuda.get_device_properties(device).total_memory / GIB
            rows.append(("GPU memory", f"{numbers['gpu_memory_gib']:.1f} of {total:.1f} GiB"))
        rows.append(("main memory", f"{numbers['memory_gib']:.1f} GiB"))
        if self.cache_dir is not None:
            rows.append(("cache on disk", f"{_bytes_below(Path(self.cache_dir)) / GIB:.2f} GiB"))
        kept, size = self.checkpoints.keep, self.checkpoints.size / GIB
        self.checkpoints.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.checkpoints.folder).free / GIB
        rows.append(("checkpoints on disk", f"{kept} x {size:.2f} of {free:.1f} GiB"))
        return rows, numbers

    def _projected(self, numbers: dict[str, Any], set_up: float) -> list[tuple[str, str]]:
        state, step, validation_s = self.trainer.state, numbers["seconds_per_step"], numbers["validation_s"]
        validations = state.max_epochs // self.val_interval * validation_s
        numbers["epoch_h"] = (state.epoch_length * step + validation_s / self.val_interval) / 3600
        numbers["run_h"] = (set_up + validations + state.max_epochs * state.epoch_length * step) / 3600
        rows = [
            (f"an epoch of {state.epoch_length} steps", _duration(3600 * numbers["epoch_h"])),
            (f"the run of {state.max_epochs} epochs", _duration(3600 * numbers["run_h"])),
        ]
        if self.budget_hours is not None:
            left = 0.98 * 3600 * self.budget_hours - set_up - validations
            numbers["steps_per_epoch"] = max(0, math.floor(left / state.max_epochs / step))
            fitting = f"{numbers['steps_per_epoch']} steps_per_epoch for {state.max_epochs} epochs"
            rows.append((f"within budget_hours {self.budget_hours:g}", fitting))
        return rows


class FirstWindows(torch.nn.Module):
    """A network that predicts a few windows and then repeats the last prediction, to run through an inferer quickly.

    Attributes:
        calls: number of calls.
        seconds_left_out: estimated time of the calls that were not computed.
    """

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.calls = 0
        self._times: list[float] = []
        self._left_out = 0
        self._last: dict[torch.Size, torch.Tensor] = {}

    @property
    def seconds_left_out(self) -> float:
        return self._left_out * statistics.median(self._times[1:] or self._times or [0.0])

    def forward(self, inputs: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if len(self._times) >= WINDOWS and inputs.shape in self._last:
            self._left_out += 1
            return self._last[inputs.shape]
        synchronize(inputs.device)
        started = time.monotonic()
        self._last[inputs.shape] = self.network(inputs, *args, **kwargs)
        synchronize(inputs.device)
        self._times.append(time.monotonic() - started)
        return self._last[inputs.shape]


def _name_and_memory(device: torch.device) -> str:
    if device.type != "cuda":
        return "the CPU"
    memory = torch.cuda.get_device_properties(device).total_memory / GIB
    return f"{torch.cuda.get_device_name(device)} ({memory:.1f} GiB)"


def _bytes_below(folder: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"

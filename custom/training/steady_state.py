"""Seconds of a training step once the batches that were prepared in advance are used up."""

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from monai.engines import SupervisedTrainer

from ..system.memory import usable_cores

WARM_UP = 2
"""Steps that are not timed, since the first ones select kernels and start workers."""
FEWEST = 2
"""Steps that are timed in any case."""
NOTABLE = 0.1
"""Share of a step from which waiting, or a term with an interval, is said to limit the training."""


@dataclass
class StepTimes:
    """What steps took, in seconds.

    Attributes:
        waits: time without a batch, of each step.
        own: time with the batch, of each step: copying, network, loss, backward pass, optimizer.
        periodic: of the loss's terms with an interval, by name: their share of a step.
        num_workers: of the loader.
        device: type of the device.
    """

    waits: list[float]
    own: list[float]
    periodic: dict[str, float] = field(default_factory=dict)
    num_workers: int = 0
    device: str = "cpu"

    @property
    def totals(self) -> list[float]:
        return [wait + own for wait, own in zip(self.waits, self.own, strict=True)]

    @property
    def seconds(self) -> float:
        """Mean seconds of a step: while a term with an interval is computed, the loader catches up."""
        return max(statistics.fmean(self.totals), statistics.fmean(self.own) + sum(self.periodic.values()))

    @property
    def data_wait(self) -> float:
        """Share of a step without a batch."""
        return max(0.0, 1 - (statistics.fmean(self.own) + sum(self.periodic.values())) / self.seconds)

    @property
    def limited_by(self) -> str:
        """What a shorter step has to begin with."""
        if self.data_wait > NOTABLE:
            cores = usable_cores()
            if self.num_workers < cores:
                return f"loading data: use more num_workers (now {self.num_workers} on {cores} cores)"
            return f"loading data: num_workers ({self.num_workers}) has all {cores} cores; use fewer augmentations"
        name = max(self.periodic, key=self.periodic.__getitem__, default=None)
        if name is not None and self.periodic[name] > NOTABLE * self.seconds:
            return f"the loss's term {name}, {self.periodic[name]:.3g} s a step: use a longer interval"
        return "the GPU" if self.device == "cuda" else "computing on the CPU"


def time_steps(trainer: SupervisedTrainer, steps: int, limit_s: float) -> StepTimes:
    """Run training steps and time them; they count neither as iterations nor as calls of the loss.

    The batches that the loader has prepared in advance are passed by, since a loader that is too slow shows only after
    them. The number of timed steps is a multiple of the loader's workers, which finish at the same time.

    Args:
        trainer: its network is trained by the steps.
        limit_s: no step is begun after these seconds, except for two that are timed.
    """
    started = time.monotonic()
    calls = getattr(trainer.loss_function, "calls", 0)
    loader, device = trainer.data_loader, trainer.state.device
    workers = getattr(loader, "num_workers", 0)
    trainer.scaler = torch.amp.GradScaler(device.type) if trainer.amp else None  # ty: ignore[invalid-assignment]
    batches = iter(loader)
    for _ in range(WARM_UP):
        _step(trainer, batches)
    for _ in range(max(1, workers) * getattr(loader, "prefetch_factor", 0)):
        if time.monotonic() - started < limit_s / 2:
            next(batches)
    _step(trainer, batches)  # during which the loader begins anew
    times = StepTimes([], [], num_workers=workers, device=device.type)
    while len(times.own) < -(-steps // max(1, workers)) * max(1, workers):
        if len(times.own) >= FEWEST and time.monotonic() - started > limit_s:
            break
        wait, own = _step(trainer, batches, calls=1)
        times.waits.append(wait)
        times.own.append(own)
    times.periodic = _periodic(trainer, batches, statistics.fmean(times.own))
    _set_calls(trainer, calls)
    trainer.state.iteration = 0
    trainer.optimizer.zero_grad(set_to_none=True)
    return times


def _step(trainer: SupervisedTrainer, batches: Iterator[Any], calls: int | None = None) -> tuple[float, float]:
    """Seconds of waiting for the batch and of a step with it; ``calls`` decides on terms with an interval."""
    started = time.monotonic()
    trainer.state.batch = next(batches)
    received = time.monotonic()
    if calls is not None:
        _set_calls(trainer, calls)
    trainer.state.iteration += 1
    trainer.state.output = trainer._iteration(trainer, trainer.state.batch)
    synchronize(trainer.state.device)
    return received - started, time.monotonic() - received


def synchronize(device: torch.device) -> None:
    """Wait for what was sent to a GPU; other devices have finished already."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _set_calls(trainer: SupervisedTrainer, calls: int) -> None:
    loss: Any = trainer.loss_function
    if hasattr(loss, "calls"):
        loss.calls = calls


def _periodic(trainer: SupervisedTrainer, batches: Iterator[Any], plain: float) -> dict[str, float]:
    """Share of a step, in seconds, of each term of a ``CompoundLoss`` that has an interval."""
    loss: Any = trainer.loss_function
    used = {name: every for name, every in getattr(loss, "every", {}).items() if every > 1 and loss.weights.get(name)}
    return {name: max(0.0, _step(trainer, batches, calls=every)[1] - plain) / every for name, every in used.items()}

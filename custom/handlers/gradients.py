"""Gradient clipping, and protection of the weights from losses and gradients that are not finite."""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from ..configuration import without_effect
from ..errors import DataError
from ..system.distributed import any_rank, gather, max_over_ranks, rank
from ..system.files import write_whole
from .accumulation import begins_step, ends_step
from .ema import by_dtype

RECORD = "non_finite.json"

logger = logging.getLogger(__name__)


@without_effect("output_dir", "interval")
class GradientGuard:
    """Clips gradients by their norm, and skips optimizer steps whose loss or gradient is not finite.

    It acts once per optimizer step, after gradients have been accumulated and unscaled by the ``GradScaler``. A skipped
    step changes neither weights nor buffers (batch-norm statistics). After ``patience`` skipped steps in a row the run
    ends with an error, and the batches are listed in ``<output_dir>/non_finite.json``. A batch with a voxel that is not
    finite ends the run as well.

    With a fused optimizer (``fused=True``) steps are skipped on the GPU, and the values are read every ``interval``
    steps only, since reading waits for the GPU: errors and warnings come up to so many steps later. Other optimizers
    are told by the CPU, at every step.

    In float16, steps that the ``GradScaler`` skips to find its scale do not count, unless a loss is not finite or the
    scale has fallen to 1.

    ``engine.state.gradient_norm`` holds the last step's norm before clipping (L2, over all parameters), a tensor unless
    it has been read; ``engine.state.loss`` the last loss that has been read, or None.

    Example: ``{"_target_": "custom.handlers.GradientGuard", "optimizer": "@optimizer", "network": "@network",
    "output_dir": "@results_dir", "max_norm": 12.0}``

    Args:
        network: may be wrapped in ``DistributedDataParallel``.
        max_norm: gradients with a larger norm are scaled down to it; None clips nothing.
        interval: steps of a fused optimizer between two readings.

    Raises:
        DataError: after ``patience`` skipped steps in a row, or one for voxels that are not finite; names the cases.
    """

    def __init__(
        self,
        *,
        optimizer: torch.optim.Optimizer,
        network: torch.nn.Module,
        output_dir: str,
        max_norm: float | None = None,
        patience: int = 3,
        interval: int = 20,
    ) -> None:
        self.optimizer = optimizer
        self.max_norm = max_norm
        self.patience = patience
        self.path = Path(output_dir) / RECORD
        self._fused = all(group.get("fused") for group in optimizer.param_groups)
        self._interval = interval if self._fused else 1
        self._buffers = _Buffers(network)
        self._batches: list[_Batch] = []
        self._result: torch.Tensor | None = None
        self._steps: list[tuple[torch.Tensor, list[_Batch]]] = []
        self._bad_steps: list[list[dict[str, Any]]] = []

    def attach(self, engine: Engine) -> None:
        engine.state.gradient_norm, engine.state.loss = math.nan, None
        engine.add_event_handler(Events.ITERATION_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._end)
        for end in (Events.EPOCH_COMPLETED, Events.TERMINATE):
            engine.add_event_handler(end, self._read)
        self.optimizer.register_step_pre_hook(lambda *_: self._before_step(engine))

    @torch.no_grad()
    def _begin(self, engine: Engine) -> None:
        if begins_step(engine):
            self._batches, self._result = [], None
            self._buffers.save()

    @torch.no_grad()
    def _before_step(self, engine: Engine) -> None:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        gradients = [parameter.grad for parameter in parameters]
        if getattr(self.optimizer, "grad_scale", None) is not None:  # a fused optimizer would unscale after this
            torch._foreach_div_(gradients, self.optimizer.grad_scale)
            self.optimizer.grad_scale = None
        norm = get_total_norm(gradients).float()
        if self.max_norm is not None:
            clip_grads_with_norm_(parameters, self.max_norm, norm)
        bad = self._judge(engine, norm)
        if self._fused:
            self.optimizer.found_inf = bad.float()  # torch's own way to skip a step on the GPU
        elif bad:
            for parameter in parameters:
                parameter.grad = None

    def _judge(self, engine: Engine, norm: torch.Tensor) -> torch.Tensor:
        """Return whether the step is to be skipped, as a tensor on the device, and restore the buffers if so."""
        losses = [batch.values[0] for batch in self._batches if batch.iteration != engine.state.iteration]
        losses = torch.stack([*losses, engine.state.output["loss"].detach().float()])
        flags = max_over_ranks(torch.stack([~norm.isfinite(), ~losses.isfinite().all()]).float())
        bad = flags.any()
        self._result = torch.cat([flags, norm[None]])
        engine.state.gradient_norm = norm
        if self._fused or bad:
            self._buffers.restore(bad)
        return bad

    @torch.no_grad()
    def _end(self, engine: Engine) -> None:
        self._batches.append(_Batch.of(engine))
        if not ends_step(engine):
            return
        if self._result is None:  # the GradScaler has skipped the step
            self._judge(engine, torch.full_like(self._batches[-1].values[0], math.inf))
        self._steps.append((self._result, self._batches))
        if len(self._steps) >= self._interval:
            self._read(engine)

    def _read(self, engine: Engine) -> None:
        steps, self._steps = self._steps, []
        if not steps:
            return
        tensors = [torch.cat([result, *(batch.values for batch in batches)]) for result, batches in steps]
        numbers = iter(torch.cat(tensors).tolist())
        for _, batches in steps:
            bad_norm, bad_loss, norm = (next(numbers) for _ in range(3))
            found = [batch.described([next(numbers) for _ in batch.values]) for batch in batches]
            engine.state.gradient_norm, engine.state.loss = norm, float(found[-1]["loss"])
            if not bad_norm and not bad_loss:
                self._bad_steps.clear()
            elif bad_loss or not _still_searching(engine):
                self._count(engine, norm, found)

    def _count(self, engine: Engine, norm: float, found: list[dict[str, Any]]) -> None:
        self._bad_steps.append(found)
        logger.warning(
            "skipped the optimizer step of iteration %d: gradient norm %s, losses %s, cases %s",
            *(found[-1]["iteration"], norm, [float(batch["loss"]) for batch in found], _cases(_blamed(found))),
        )
        faulty = any(batch["not_finite_in_image"] for batch in found)
        if any_rank(faulty) or len(self._bad_steps) >= self.patience:
            self._stop()

    def _stop(self) -> None:
        ranks = gather(self._bad_steps)
        steps = [_blamed([batch for found in step for batch in found]) for step in zip(*ranks, strict=True)]
        if rank() == 0:
            write_whole(self.path, lambda file: file.write_text(json.dumps(steps, indent=1)))
        faulty = [batch for step in steps for batch in step if batch["not_finite_in_image"]]
        cases = _cases(faulty or [batch for step in steps for batch in step])
        found = "voxels" if faulty else f"a loss or gradient in {len(steps)} steps in a row"
        raise DataError.of(
            ", ".join(cases) or "training batches",
            f"{found} that {'are' if faulty else 'is'} not finite, training stopped with the previous weights"
            f" (see {self.path})",
            "finite intensities" if faulty else "finite values; try a lower learning_rate, or precision float32",
        )


@dataclass
class _Batch:
    iteration: int
    about: dict[str, Any]
    values: torch.Tensor
    """On the device: the loss, and whether the voxels of each item are finite."""

    @classmethod
    def of(cls, engine: Engine) -> "_Batch":
        batch, output = engine.state.batch, engine.state.output
        loss = output["loss"].detach().float()
        image = output.get("image")
        finite = image.flatten(1).isfinite().all(1) if isinstance(image, torch.Tensor) else loss.new_ones(0)
        about = {key: batch[key] for key in ("id", "position", "slice") if isinstance(batch, dict) and key in batch}
        return cls(engine.state.iteration, about, torch.cat([loss[None], finite.float()]))

    def described(self, values: Sequence[float]) -> dict[str, Any]:
        """Describe it by iteration, loss, cases and positions; only the faulty cases if voxels are not finite."""
        loss, *finite = values
        faulty = [n for n, fine in enumerate(finite) if not fine]
        about = {key: _plain(items) for key, items in self.about.items()}
        about = {key: [items[n] for n in faulty or range(len(items))] for key, items in about.items()}
        return {"iteration": self.iteration, "loss": str(loss), "not_finite_in_image": bool(faulty), **about}


class _Buffers:
    """A network's buffers, which are saved and restored in a few kernels, whatever their number."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.groups = by_dtype(buffer.view(-1) for buffer in network.buffers()).values()
        self.saved: list[torch.Tensor] = []

    def save(self) -> None:
        self.saved = [torch.cat(group) for group in self.groups]

    def restore(self, condition: torch.Tensor) -> None:
        """Restore what was saved where the condition, a tensor with one value, is true."""
        for group, saved in zip(self.groups, self.saved, strict=bool(self.saved)):
            kept = torch.where(condition, saved, torch.cat(group))
            torch._foreach_copy_(group, kept.split([len(buffer) for buffer in group]))


def _still_searching(engine: Engine) -> bool:
    """Whether a ``GradScaler`` can still halve its scale and try again."""
    scaler = getattr(engine, "scaler", None)
    return scaler is not None and scaler.is_enabled() and scaler.get_scale() > 1


def _blamed(batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The batches that made a step fail: those with faulty images, else those with faulty losses, else all."""
    faulty = [batch for batch in batches if batch["not_finite_in_image"]]
    return faulty or [batch for batch in batches if not math.isfinite(float(batch["loss"]))] or batches


def _plain(values: Any) -> list[Any]:
    return values.tolist() if isinstance(values, torch.Tensor) else list(values)


def _cases(batches: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(str(case) for batch in batches for case in batch.get("id", [])))

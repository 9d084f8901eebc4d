"""Gradient clipping, and protection of the weights from losses and gradients that are not finite."""

import json
import logging
import math
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from ..configuration import without_effect
from ..errors import DataError
from ..system.distributed import any_rank, gather, rank
from ..system.files import write_whole
from .accumulation import begins_step, ends_step

RECORD = "non_finite.json"

logger = logging.getLogger(__name__)


@without_effect("output_dir")
class GradientGuard:
    """Clips gradients by their norm, and skips optimizer steps whose loss or gradient is not finite.

    It acts once per optimizer step, after gradients have been accumulated and unscaled by the ``GradScaler``. A skipped
    step changes neither weights nor buffers (batch-norm statistics). After ``patience`` skipped steps in a row the run
    ends with an error, and the batches are listed in ``<output_dir>/non_finite.json``. A batch with a voxel that is not
    finite ends the run at once.

    In float16, steps that the ``GradScaler`` skips to find its scale do not count, unless a loss is not finite or the
    scale has fallen to 1.

    ``engine.state.gradient_norm`` holds the last step's norm before clipping (L2, over all parameters).

    Example: ``{"_target_": "custom.handlers.GradientGuard", "optimizer": "@optimizer", "network": "@network",
    "output_dir": "@results_dir", "max_norm": 12.0}``

    Args:
        optimizer: its steps are guarded.
        network: its buffers are restored; may be wrapped in ``DistributedDataParallel``.
        max_norm: gradients with a larger norm are scaled down to it; None clips nothing.
        patience: number of skipped steps in a row that ends the run.
        output_dir: folder for ``non_finite.json``.

    Raises:
        DataError: after ``patience`` skipped steps in a row, or at once for voxels that are not finite; names the
            cases.
    """

    def __init__(
        self,
        *,
        optimizer: torch.optim.Optimizer,
        network: torch.nn.Module,
        output_dir: str,
        max_norm: float | None = None,
        patience: int = 3,
    ) -> None:
        self.optimizer = optimizer
        self.max_norm = max_norm
        self.patience = patience
        self.path = Path(output_dir) / RECORD
        self._buffers = list(network.buffers())
        self._saved: list[torch.Tensor] = []
        self._losses: list[torch.Tensor] = []
        self._batches: list[tuple[int, Any]] = []
        self._stepped = False
        self._bad_steps: list[list[dict[str, Any]]] = []

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        engine.state.gradient_norm = math.nan
        engine.add_event_handler(Events.ITERATION_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._end)
        self.optimizer.register_step_pre_hook(lambda *_: self._before_step(engine))

    @torch.no_grad()
    def _begin(self, engine: Engine) -> None:
        if not begins_step(engine):
            return
        self._losses, self._batches, self._stepped = [], [], False
        if self._saved:
            torch._foreach_copy_(self._saved, self._buffers)
        else:
            self._saved = [buffer.clone() for buffer in self._buffers]

    @torch.no_grad()
    def _before_step(self, engine: Engine) -> None:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = get_total_norm([p.grad for p in parameters])
        # one transfer for all values, the only point at which the CPU waits for the GPU
        losses = [*self._losses, engine.state.output["loss"].detach()]
        engine.state.gradient_norm, *values = torch.stack([norm.float(), *(loss.float() for loss in losses)]).tolist()
        self._stepped = _finite([engine.state.gradient_norm])
        if self.max_norm is not None and engine.state.gradient_norm > self.max_norm:
            clip_grads_with_norm_(parameters, self.max_norm, norm)
        if any_rank(not _finite(values)):
            self._stepped = False
        if not self._stepped:
            for parameter in parameters:
                parameter.grad = None
            self._restore()

    def _end(self, engine: Engine) -> None:
        self._losses.append(engine.state.output["loss"].detach())
        self._batches.append((engine.state.iteration, engine.state.batch))
        if not ends_step(engine):
            return
        if self._stepped:
            self._bad_steps.clear()
            return
        values = [float(loss) for loss in self._losses]
        if getattr(engine, "scaler", None) is not None and engine.scaler.is_enabled():
            engine.state.gradient_norm = math.inf
            if not any_rank(not _finite(values)) and engine.scaler.get_scale() > 1:
                return  # the scaler halves its scale and tries again
            self._restore()
        self._count(engine, values)

    @torch.no_grad()
    def _restore(self) -> None:
        if self._saved:
            torch._foreach_copy_(self._buffers, self._saved)

    def _count(self, engine: Engine, losses: list[float]) -> None:
        found = [_describe(*batch, loss) for batch, loss in zip(self._batches, losses, strict=True)]
        self._bad_steps.append(found)
        logger.warning(
            "skipped the optimizer step of iteration %d: gradient norm %s, losses %s, cases %s",
            *(engine.state.iteration, engine.state.gradient_norm, losses, _cases(_blamed(found))),
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


def _blamed(batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The batches that made a step fail: those with faulty images, else those with faulty losses, else all."""
    faulty = [batch for batch in batches if batch["not_finite_in_image"]]
    return faulty or [batch for batch in batches if not math.isfinite(float(batch["loss"]))] or batches


def _describe(iteration: int, batch: Any, loss: float) -> dict[str, Any]:
    """Describe a batch: iteration, loss, cases and positions; only the faulty cases if voxels are not finite."""
    batch = batch if isinstance(batch, dict) else {}
    image = batch.get("image")
    faulty = []
    if isinstance(image, torch.Tensor):
        faulty = [n for n, item in enumerate(image) if not torch.isfinite(item).all()]
    about = {key: _plain(batch[key]) for key in ("id", "position", "slice") if key in batch}
    about = {key: [values[n] for n in faulty or range(len(values))] for key, values in about.items()}
    return {"iteration": iteration, "loss": str(loss), "not_finite_in_image": bool(faulty), **about}


def _plain(values: Any) -> list[Any]:
    return values.tolist() if isinstance(values, torch.Tensor) else list(values)


def _cases(batches: list[dict[str, Any]]) -> list[str]:
    """Unique ids of the cases."""
    return list(dict.fromkeys(str(case) for batch in batches for case in batch.get("id", [])))


def _finite(values: list[float]) -> bool:
    return all(math.isfinite(value) for value in values)

"""A progress bar with the loss."""

import time
from typing import Any

import torch
from ignite.engine import Engine
from ignite.handlers import ProgressBar as IgniteProgressBar

from ..configuration import without_effect

_SECONDS_BETWEEN_LOSSES = 0.5


@without_effect()
class ProgressBar(IgniteProgressBar):
    """Ignite's progress bar as a handler for MONAI's engines: progress of the epoch, time left, s/step and loss.

    The loss is the last one that :class:`GradientGuard` has read; without it, the bar reads one twice a second at most.
    Reading a loss waits for the GPU.

    Example: ``{"_target_": "custom.handlers.ProgressBar", "desc": "training"}``
    """

    def __init__(self, *, desc: str | None = None, unit: str = "step") -> None:
        bar_format = (
            "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_inv_fmt}{postfix}]"
        )
        super().__init__(persist=True, desc=desc, bar_format=bar_format, unit=unit)
        self._shown: dict[str, float] = {}
        self._read_at = float("-inf")

    def attach(self, engine: Engine, *_: Any, **__: Any) -> None:  # type: ignore[override]
        super().attach(engine, output_transform=lambda output: self._loss(engine, output))

    def _loss(self, engine: Engine, output: Any) -> dict[str, float]:
        """The loss to show; an evaluator's output has none."""
        if hasattr(engine.state, "loss"):
            return {} if engine.state.loss is None else {"loss": float(engine.state.loss)}
        now = time.monotonic()
        if isinstance(output, dict) and "loss" in output and now - self._read_at >= _SECONDS_BETWEEN_LOSSES:
            self._shown = {"loss": float(torch.as_tensor(output["loss"]).detach().mean())}
            self._read_at = now
        return self._shown

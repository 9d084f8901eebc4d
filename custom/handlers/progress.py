"""A progress bar over an epoch, with the loss in it."""

import time
from typing import Any

import torch
from ignite.engine import Engine
from ignite.handlers import ProgressBar as IgniteProgressBar

from ..configuration import without_effect

_SECONDS_BETWEEN_LOSSES = 0.5


@without_effect()
class ProgressBar(IgniteProgressBar):
    """Ignite's progress bar, attachable by MONAI's engines: how far the epoch is, time left, s/step, and the loss.

    The loss is read twice a second: reading it waits for the GPU.

    Args:
        desc: text before the bar, for example ``"training"``.
        unit: what is counted.
    """

    def __init__(self, *, desc: str | None = None, unit: str = "step") -> None:
        bar_format = (
            "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_inv_fmt}{postfix}]"
        )
        super().__init__(persist=True, desc=desc, bar_format=bar_format, unit=unit)
        self._shown: dict[str, float] = {}
        self._read_at = float("-inf")

    def attach(self, engine: Engine, *_: Any, **__: Any) -> None:  # type: ignore[override]
        """Register with a trainer or an evaluator."""
        super().attach(engine, output_transform=self._loss)

    def _loss(self, output: Any) -> dict[str, float]:
        """The loss of a training step, at times; an evaluator's output has none."""
        now = time.monotonic()
        if isinstance(output, dict) and "loss" in output and now - self._read_at >= _SECONDS_BETWEEN_LOSSES:
            self._shown = {"loss": float(torch.as_tensor(output["loss"]).detach().mean())}
            self._read_at = now
        return self._shown

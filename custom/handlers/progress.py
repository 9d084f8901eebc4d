"""A progress bar over an epoch, with the loss in it."""

from typing import Any

import torch
from ignite.engine import Engine
from ignite.handlers import ProgressBar as IgniteProgressBar


class ProgressBar(IgniteProgressBar):
    """Ignite's progress bar, attachable by MONAI's engines and showing the loss of the current step.

    Args:
        desc: text before the bar, for example ``"training"``.
    """

    def __init__(self, *, desc: str | None = None) -> None:
        bar_format = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]{postfix}"
        super().__init__(persist=True, desc=desc, bar_format=bar_format)

    def attach(self, engine: Engine, *_: Any, **__: Any) -> None:  # type: ignore[override]
        """Register with a trainer or an evaluator."""
        super().attach(engine, output_transform=_loss)


def _loss(output: Any) -> dict[str, float]:
    """The loss of a training step; an evaluator's output has none."""
    loss = output.get("loss") if isinstance(output, dict) else None
    return {} if loss is None else {"loss": float(torch.as_tensor(loss).detach().mean())}

"""A progress bar with the loss."""

from typing import Any

from ignite.engine import Engine
from ignite.handlers import ProgressBar as IgniteProgressBar

from ..configuration import without_effect


@without_effect()
class ProgressBar(IgniteProgressBar):
    """Ignite's progress bar as a handler for MONAI's engines: progress of the epoch, time left, s/step and loss.

    The loss is the last one that :class:`GradientGuard` has read, since reading a loss waits for the GPU.

    Example: ``{"_target_": "custom.handlers.ProgressBar", "desc": "training"}``
    """

    def __init__(self, *, desc: str | None = None, unit: str = "step") -> None:
        bar_format = (
            "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_inv_fmt}{postfix}]"
        )
        super().__init__(persist=True, desc=desc, bar_format=bar_format, unit=unit)

    def attach(self, engine: Engine, *_: Any, **__: Any) -> None:  # type: ignore[override]
        super().attach(engine, output_transform=lambda _: _loss(engine))


def _loss(engine: Engine) -> dict[str, float]:
    loss = getattr(engine.state, "loss", None)
    return {} if loss is None else {"loss": float(loss)}

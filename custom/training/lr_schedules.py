"""Learning-rate schedules over the optimizer steps of a run."""

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from ..errors import DataError

_DECAYS: dict[str, Callable[[float, float], float]] = {
    "poly": lambda t, power: (1 - t) ** power,
    "cosine": lambda t, _: (1 + math.cos(math.pi * t)) / 2,
    "constant": lambda *_: 1.0,
}


def build_schedule(
    *,
    optimizer: Optimizer,
    name: str = "poly",
    total_steps: int,
    warmup_steps: int = 0,
    power: float = 0.9,
    patience: int = 10,
    factor: float = 0.3,
) -> LRScheduler:
    """Build a schedule by name, to be stepped by :class:`custom.handlers.StepSchedule`.

    With the optimizer's learning rate ``lr``, w warm-up steps, T steps in total, and s steps done:

    - the first w steps have ``lr * (s + 1) / w`` (except ``one_cycle`` and ``plateau``), then with
      ``t = (s - w) / (T - w)``:
    - ``poly``: ``lr * (1 - t) ** power``, as in nnU-Net (power 0.9);
    - ``cosine``: ``lr * (1 + cos(pi * t)) / 2``;
    - ``constant``: ``lr``;
    - ``one_cycle``: torch's ``OneCycleLR`` (Smith and Topin 2018): from ``lr / 25`` up to ``lr`` during the warm-up (by
      default 30 % of the run), then down by a cosine; momentum changes inversely;
    - ``plateau``: ``lr`` times ``factor`` whenever the validation's key metric has not improved ``patience`` times.

    Example: ``build_schedule(optimizer=optimizer, name="cosine", total_steps=10_000, warmup_steps=500)``

    Args:
        optimizer: its learning rates are set immediately; parameter groups keep their ratios.
        total_steps: optimizer steps of the whole run, over all sessions.
        warmup_steps: optimizer steps of the warm-up.

    Raises:
        DataError: an unknown name, a run of no steps, a warm-up longer than the run, or a warm-up for ``plateau``.
    """
    if total_steps < 1:
        raise DataError.of("epochs, steps_per_epoch", f"a run of {total_steps} steps", "1 or more")
    if not 0 <= warmup_steps < total_steps:
        expected = f"0 or more, and fewer than the run's {total_steps}"
        raise DataError.of("lr_scheduler#warmup_steps", str(warmup_steps), expected)
    if name == "plateau":
        if warmup_steps:
            raise DataError.of(
                "lr_scheduler#warmup_steps", str(warmup_steps), "0: the schedule 'plateau' has no warm-up"
            )
        return ReduceLROnPlateau(optimizer, mode="max", factor=factor, patience=patience)
    if name == "one_cycle":
        if warmup_steps == 1 or total_steps == 1:  # torch divides by the steps after the first
            found = f"{warmup_steps} of {total_steps} steps"
            raise DataError.of("lr_scheduler#warmup_steps", found, "'one_cycle' with 0 or 2 or more, of 2 or more")
        rates = [group["lr"] for group in optimizer.param_groups]
        return OneCycleLR(optimizer, rates, total_steps, pct_start=warmup_steps / total_steps if warmup_steps else 0.3)
    if name not in _DECAYS:
        raise DataError.of("lr_scheduler#name", repr(name), f"one of {', '.join([*_DECAYS, 'one_cycle', 'plateau'])}")
    decay = _DECAYS[name]

    def share(step: int) -> float:
        """Learning rate after ``step`` steps as a fraction of the largest."""
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        return decay(min(1.0, (step - warmup_steps) / (total_steps - warmup_steps)), power)

    return LambdaLR(optimizer, share)

"""Learning rate over the optimizer steps of a whole run."""

import math
from collections.abc import Callable
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

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
    final: float = 0.0,
    patience: int = 10,
    factor: float = 0.3,
) -> LRScheduler:
    """Build a schedule by name; :class:`custom.handlers.StepSchedule` moves it on.

    With the optimizer's own learning rate ``lr``, w warm-up steps, T steps in all, and s steps done:

    - the first w steps have ``lr * (s + 1) / w`` (all but ``one_cycle`` and ``plateau``), then with
      ``t = (s - w) / (T - w)``:
    - ``poly``: ``lr * (1 - t) ** power``, as nnU-Net (power 0.9);
    - ``cosine``: ``lr * (final + (1 - final) * (1 + cos(pi * t)) / 2)``; ``final`` holds for ``poly`` in the same way;
    - ``constant``: ``lr``;
    - ``one_cycle``: torch's ``OneCycleLR`` (Smith and Topin 2018): from ``lr / 25`` up to ``lr`` over the warm-up (by
      default 30 % of the run), then down along a cosine; momentum moves against it;
    - ``plateau``: ``lr`` times ``factor`` whenever the validation's key metric has not risen ``patience`` times.

    Args:
        optimizer: whose learning rates are set at once; several parameter groups keep their ratios.
        name: one of the above.
        total_steps: optimizer steps of the whole run, all sessions together.
        warmup_steps: optimizer steps of the warm-up.
        power: of ``poly``.
        final: learning rate at the end, as a share of ``lr``.
        patience, factor: of ``plateau``.

    Raises:
        ValueError: an unknown name, or a warm-up that is longer than the run or that ``plateau`` does not have.
    """
    if total_steps < 1 or not 0 <= warmup_steps < total_steps:
        raise ValueError(f"warm-up of {warmup_steps} steps in a run of {total_steps}: expected 0 or more, and fewer")
    if name == "plateau":
        if warmup_steps:
            raise ValueError("the schedule 'plateau' has no warm-up, expected warmup_steps 0")
        return ReduceLROnPlateau(optimizer, mode="max", factor=factor, patience=patience)
    if name == "one_cycle":
        rates = [group["lr"] for group in optimizer.param_groups]
        return OneCycleLR(optimizer, rates, total_steps, pct_start=warmup_steps / total_steps if warmup_steps else 0.3)
    if name not in _DECAYS:
        raise ValueError(f"schedule is one of {', '.join([*_DECAYS, 'one_cycle', 'plateau'])}, found {name!r}")
    decay = _DECAYS[name]
    return LambdaLR(optimizer, partial(_share, total_steps, warmup_steps, final, lambda t: decay(t, power)))


def _share(total: int, warmup: int, final: float, decay: Callable[[float], float], step: int) -> float:
    """The learning rate after ``step`` steps as a share of the largest."""
    if step < warmup:
        return (step + 1) / warmup
    return final + (1 - final) * decay(min(1.0, (step - warmup) / (total - warmup)))
